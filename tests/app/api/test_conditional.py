"""ETag, If-None-Match and If-Match: what is read is sent once, and what has changed is not changed blindly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.api import deletions as deletions_api
from app.api.http.conditional import etag_of
from app.core import db
from app.core.keys import FIRST_TENANT
from app.deletions import views
from tests.helpers import as_other, is_problem
from tests.trained import Trained

NEVER = '"0123456789abcdef0123456789abcdef"'


def paths(trained: Trained, request: str, job: str) -> list[str]:
    key = trained.account.get("/v1/api-keys")["items"][0]["id"]
    return [
        f"/v1/deletion-requests/{request}",
        f"/v1/jobs/{job}",
        f"/v1/datasets/{trained.dataset}",
        trained.where,
        f"{trained.where}/versions/1",
        f"/v1/api-keys/{key}",
        "/v1/deletion-requests",
        "/v1/jobs",
        "/v1/models",
        f"/v1/datasets/{trained.dataset}/samples",
        "/v1/catalog",
    ]


@pytest.mark.validation
def test_every_document_has_a_strong_etag_that_answers_304(trained: Trained) -> None:
    made = trained.delete(trained.ids[:1])
    http = trained.account.http
    for path in paths(trained, made["id"], made["outcomes"][0]["job"]):
        first = http.get(path)
        etag = first.headers["etag"]
        assert (first.status_code, etag[:1]) == (200, '"'), path
        again = http.get(path, headers={"If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), path
        assert "content-length" not in again.headers
        assert "content-type" not in again.headers
        for stale in (NEVER, f"{NEVER}, W/{NEVER}"):
            assert http.get(path, headers={"If-None-Match": stale}).content == first.content, path
        for other in (f"{NEVER}, {etag}", f"W/{etag}", "*"):
            assert http.get(path, headers={"If-None-Match": other}).status_code == 304, path


@pytest.mark.validation
def test_head_is_get_without_the_body(trained: Trained) -> None:
    made = trained.delete(trained.ids[:1])
    http = trained.account.http
    own = {"date", "x-request-id"}
    for path in [*paths(trained, made["id"], made["outcomes"][0]["job"]), "/healthz", "/docs", "/v1/jobs/job_1"]:
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        named = set(whole.headers.items()), set(head.headers.items())
        assert {each for each in named[0] ^ named[1] if each[0] not in own} == set(), path
        if etag := whole.headers.get("etag"):
            assert http.head(path, headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.validation
def test_a_poll_is_never_stale_after_a_change(trained: Trained) -> None:
    """A request and its job, looked at after everything that happens to them."""
    made = trained.delete(trained.ids[:3])
    http = trained.account.http
    places = [f"/v1/deletion-requests/{made['id']}", f"/v1/jobs/{made['outcomes'][0]['job']}"]
    seen = {place: {http.get(place).headers["etag"]} for place in places}
    last = {place: next(iter(seen[place])) for place in places}

    def look(place: str) -> None:
        found = http.get(place, headers={"If-None-Match": last[place]})
        assert (found.status_code, found.headers["etag"] not in seen[place]) == (200, True), place
        seen[place].add(found.headers["etag"])
        last[place] = found.headers["etag"]

    trained.account.post(f"{places[0]}:hold", {"reason": "a court asks"})
    look(places[0])
    trained.account.post(f"{places[0]}:release")
    look(places[0])
    trained.account.post(f"{places[0]}:extend", {"reason": "many requests"})
    look(places[0])
    trained.account.work()
    for place in places:
        look(place)
        assert http.get(place, headers={"If-None-Match": last[place]}).status_code == 304


@pytest.mark.validation
def test_polls_tell_nothing_to_those_who_may_not_ask(trained: Trained) -> None:
    made = trained.delete(trained.ids[:1])
    place, http = f"/v1/deletion-requests/{made['id']}", trained.account.http
    etag = http.get(place).headers["etag"]
    theirs = as_other(trained.account)
    is_problem(http.get(place, headers={**theirs, "If-None-Match": etag}), 404, "not-found")
    is_problem(http.get(place, headers={**theirs, "If-None-Match": "*"}), 404, "not-found")
    wrong = {"Authorization": "Bearer lethe_nobody_secret", "If-None-Match": etag}
    is_problem(http.get(place, headers=wrong), 401, "unauthorized")
    limited = trained.account.post("/v1/api-keys", {"name": "n", "scopes": ["request"]}, 201)
    asking = {"Authorization": f"Bearer {limited['token']}", "If-None-Match": etag}
    is_problem(http.get(place, headers=asking), 403, "scope-missing")
    trained.account.http.delete(f"/v1/api-keys/{limited['id']}")
    is_problem(http.get(place, headers=asking), 401, "unauthorized")


def change(http: Any, method: str, path: str, etag: str | None, body: Any = None) -> Any:
    return http.request(method, path, json=body, headers={"If-Match": etag} if etag else {})


@pytest.mark.validation
def test_if_match_holds_back_a_change_of_what_has_changed(trained: Trained) -> None:
    http = trained.account.http
    before = http.get(trained.where)
    policy = before.json()["policy"]
    path, etag = f"{trained.where}/policy", before.headers["etag"]
    assert change(http, "PUT", path, etag, policy | {"grace_seconds": 5}).status_code == 200
    is_problem(change(http, "PUT", path, etag, policy), 412, "precondition-failed")
    is_problem(change(http, "PUT", path, f"W/{http.get(trained.where).headers['etag']}", policy), 412,
               "precondition-failed")  # fmt: skip
    assert trained.account.get(trained.where)["policy"]["grace_seconds"] == 5
    assert change(http, "PUT", path, f"{NEVER}, {http.get(trained.where).headers['etag']}", policy).status_code == 200
    assert change(http, "PUT", path, "*", policy).status_code == 200


@pytest.mark.validation
def test_if_match_on_an_alias(trained: Trained) -> None:
    http, path = trained.account.http, f"{trained.where}/aliases/production"
    is_problem(http.get(path), 404, "not-found")
    for etag in ("*", NEVER):  # it does not exist
        is_problem(change(http, "PUT", path, etag, {"version": 1}), 412, "precondition-failed")
    assert change(http, "PUT", path, None, {"version": 1}).status_code == 200
    etag = http.get(path).headers["etag"]
    is_problem(change(http, "DELETE", path, NEVER), 412, "precondition-failed")
    assert change(http, "DELETE", path, etag).status_code == 204


@pytest.mark.parametrize("verb", ["cancel", "refuse", "hold", "extend"])
@pytest.mark.validation
def test_if_match_on_the_laws_verbs(trained: Trained, verb: str) -> None:
    made = trained.delete(trained.ids[:1])
    http, place = trained.account.http, f"/v1/deletion-requests/{made['id']}"
    etag = http.get(place).headers["etag"]
    is_problem(change(http, "POST", f"{place}:{verb}", NEVER, {"reason": "r"}), 412, "precondition-failed")
    assert http.get(place).headers["etag"] == etag
    assert change(http, "POST", f"{place}:{verb}", etag, {"reason": "r"}).status_code == 200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Puts the database's clock forward."""
    real, ahead = db.now, timedelta()

    def put(by: timedelta) -> None:
        nonlocal ahead
        ahead = by

    monkeypatch.setattr("app.core.db.now", lambda session: real(session) + ahead)
    return put


@pytest.mark.validation
def test_a_forecast_does_not_move_with_the_clock(trained: Trained, clock: Callable[[timedelta], None]) -> None:
    trained.forget(trained.ids[:1])  # by which durations are known
    policy = trained.account.get(trained.where)["policy"]
    batch = policy | {"when": {"mode": "batch", "max_requests": 50, "max_age_seconds": 86400}}
    assert trained.account.http.put(f"{trained.where}/policy", json=batch).status_code == 200
    made = trained.delete(trained.ids[1:2])
    http, place = trained.account.http, f"/v1/deletion-requests/{made['id']}"
    first = http.get(place)
    assert first.json()["outcomes"][0]["forecast_at"]
    etag = first.headers["etag"]
    for later in (61, 3600, 12 * 3600):
        clock(timedelta(seconds=later))
        assert (http.get(place).content, http.get(place).headers["etag"]) == (first.content, etag)
        assert http.get(place, headers={"If-None-Match": etag}).status_code == 304
    assert change(http, "POST", f"{place}:hold", etag, {"reason": "r"}).status_code == 200


@pytest.mark.validation
def test_what_a_poll_has_seen_is_what_a_condition_means(trained: Trained, clock: Callable[[timedelta], None]) -> None:
    """Also while a forecast passes, which is a change: a poll that is told 304 has the ETag that a change needs."""
    trained.forget(trained.ids[:1])
    made = trained.delete(trained.ids[1:2])
    account, place = trained.account, f"/v1/deletion-requests/{made['id']}"
    etag, seen = "", set()
    for later in range(0, 180, 5):
        clock(timedelta(seconds=later))
        found = account.http.get(place, headers={"If-None-Match": etag or NEVER})
        etag = found.headers["etag"]
        seen.add(etag)
        with account.database.read() as session:
            shown = deletions_api.show(session, views.get(session, FIRST_TENANT, made["id"]))
        assert etag_of(shown.model_dump_json().encode()) == etag, (later, found.status_code)
    assert len(seen) == 2, "with a forecast, then without"


@pytest.mark.validation
def test_keys_webhooks_jobs_and_versions_take_if_match_too(trained: Trained) -> None:
    account, http = trained.account, trained.account.http
    key = account.post("/v1/api-keys", {"name": "n", "scopes": ["read"]}, 201)["id"]
    hook = account.post("/v1/webhooks", {"url": "https://8.8.8.8/x"}, 201)["id"]
    for path in (f"/v1/api-keys/{key}", f"/v1/webhooks/{hook}"):
        is_problem(change(http, "DELETE", path, NEVER), 412, "precondition-failed")
        assert change(http, "DELETE", path, http.get(path).headers["etag"]).status_code == 204
    job = account.post(f"{trained.where}:precompute")["id"]
    is_problem(change(http, "POST", f"/v1/jobs/{job}:cancel", NEVER, {}), 412, "precondition-failed")
    etag = http.get(f"/v1/jobs/{job}").headers["etag"]
    assert change(http, "POST", f"/v1/jobs/{job}:cancel", etag, {}).status_code == 200
    trained.forget(trained.ids[:1])
    is_problem(change(http, "POST", f"{trained.where}/versions/1:promote", NEVER, {}), 412, "precondition-failed")


def test_the_document_says_so(shared: Trained) -> None:
    document = shared.account.get("/v1/openapi.json")
    read = document["paths"]["/v1/jobs/{job}"]["get"]
    assert {"ETag"} == set(read["responses"]["200"]["headers"])
    assert "304" in read["responses"]
    assert "If-None-Match" in {parameter["name"] for parameter in read["parameters"]}
    write = document["paths"]["/v1/models/{model}/policy"]["put"]
    assert "412" in write["responses"]
    assert "if-match" in {parameter["name"].lower() for parameter in write["parameters"]}
