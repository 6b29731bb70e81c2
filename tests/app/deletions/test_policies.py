"""When deletions become jobs, the law's verbs on them, and what may be done with versions afterwards."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core import db
from app.core.tables import DeletionRequest, Job, Model
from app.deletions import batches
from app.rules.policy import BatchRule, EachRule
from app.rules.states import JobState
from tests.helpers import is_problem
from tests.trained import Trained


def batching(trained: Trained, **rule: Any) -> None:
    with trained.account.database.write() as session:
        model = session.get_one(Model, trained.model)
        model.policy = {**model.policy, "when": BatchRule(mode="batch", **rule).model_dump()}


def status(trained: Trained, request: dict[str, Any]) -> str:
    return str(trained.request(request)["status"])


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_batch_closes_on_requests_and_serves_them_with_one_job(trained: Trained) -> None:
    batching(trained, max_requests=3)
    first, second = trained.delete(trained.ids[:3]), trained.delete(trained.ids[3:5])
    assert [status(trained, r) for r in (first, second)] == ["accepted", "accepted"]
    assert batches.close_due(trained.account.database) == 0
    third = trained.delete(trained.ids[5:6])
    jobs = {trained.request(r)["outcomes"][0]["job"] for r in (first, second, third)}
    assert len(jobs) == 1
    trained.account.work()
    assert [trained.request(r)["outcomes"][0]["version"] for r in (first, second, third)] == [2, 2, 2]
    assert trained.account.get(f"{trained.where}/versions/2")["trained_samples"] == 898 - 6


def test_a_batch_that_cannot_be_closed_keeps_no_other(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    """A 202 of one model ends in time, whatever is wrong with another."""
    batching(trained, max_samples=4, max_age_seconds=3600)
    other = trained.account.model(trained.dataset)["id"]
    with trained.account.database.write() as session:
        session.get_one(Model, other).policy = session.get_one(Model, trained.model).policy
    request = trained.delete(trained.ids[:2])
    assert len(trained.request(request)["outcomes"]) == 2
    for broken in (trained.model, other):
        with trained.account.database.write() as session:
            old = db.now(session) - timedelta(hours=2)
            session.execute(update(DeletionRequest).values(received_at=old))
            policy = session.get_one(Model, broken).policy
            session.get_one(Model, broken).policy = {**policy, "when": {"mode": "of a later version"}}
        batches.close_due(trained.account.database)
        assert "the batch of a model could not be closed" in caplog.text
        with trained.account.database.write() as session:
            session.get_one(Model, broken).policy = policy
        jobs = {each["model"]: each["job"] for each in trained.request(request)["outcomes"]}
        assert jobs[other if broken == trained.model else trained.model]


@pytest.mark.validation
def test_a_batch_closes_on_samples_and_on_age(trained: Trained) -> None:
    batching(trained, max_samples=4, max_age_seconds=3600)
    small = trained.delete(trained.ids[:2])
    assert status(trained, small) == "accepted"
    with trained.account.database.write() as session:
        old = db.now(session) - timedelta(hours=2)
        session.execute(update(DeletionRequest).values(received_at=old))
    assert batches.close_due(trained.account.database) == 1
    trained.account.work()
    large = trained.delete(trained.ids[10:15])
    assert status(trained, large) == "processing"


def test_a_batch_closes_in_time_for_the_earliest_deadline(trained: Trained) -> None:
    batching(trained)
    trained.delete(trained.ids[:2])
    with trained.account.database.write() as session:
        session.execute(update(DeletionRequest).values(due_at=db.now(session) + timedelta(minutes=30)))
    assert batches.close_due(trained.account.database) == 1


@pytest.mark.validation
def test_requests_that_come_while_a_job_runs_join_the_next_batch(trained: Trained) -> None:
    batching(trained, max_requests=1)
    first = trained.delete(trained.ids[:2])
    second, third = trained.delete(trained.ids[2:4]), trained.delete(trained.ids[4:6])
    assert [status(trained, r) for r in (first, second, third)] == ["processing", "accepted", "accepted"]
    trained.account.work()
    assert batches.close_due(trained.account.database) == 1
    trained.account.work()
    versions = [trained.request(r)["outcomes"][0]["version"] for r in (first, second, third)]
    assert versions == [2, 3, 3]


def test_the_rule_closes_at_the_earlier_of_age_and_law() -> None:
    start = datetime(2026, 5, 1)  # noqa: DTZ001
    pending = batches.Pending(1, 1, start, start + timedelta(days=30))
    rule = BatchRule(mode="batch", max_age_seconds=86400 * 10)
    assert batches.closes_at(rule, pending, timedelta(hours=2)) == start + timedelta(days=10)
    late = batches.Pending(1, 1, start, start + timedelta(days=3))
    expected = start + timedelta(days=3) - timedelta(hours=6) - batches.DEADLINE_ROOM
    assert batches.closes_at(rule, late, timedelta(hours=2)) == expected
    assert batches.closes_at(EachRule(mode="each"), pending, timedelta(0)) == start


def test_with_a_crowd_neither_age_nor_number_closes_a_smaller_batch_but_the_law_does() -> None:
    start = datetime(2026, 5, 1)  # noqa: DTZ001
    rule = BatchRule(mode="batch", max_age_seconds=86400 * 10, max_requests=2, max_samples=100, crowd=50)
    due = start + timedelta(days=30)
    by_law = due - batches.DEADLINE_ROOM
    alone, together = (batches.Pending(3, samples, start, due) for samples in (49, 50))
    assert not batches.is_full(rule, alone)
    assert batches.is_full(rule, together)
    assert batches.closes_at(rule, alone, timedelta(0)) == by_law
    assert batches.closes_at(rule, together, timedelta(0)) == start + timedelta(days=10)
    with pytest.raises(ValueError, match="could only close by the deadline"):
        BatchRule(mode="batch", max_samples=49, crowd=50)


def test_a_crowd_leaves_together(trained: Trained) -> None:
    batching(trained, max_requests=1, crowd=5)
    first = trained.delete(trained.ids[:2])
    assert status(trained, first) == "accepted"
    with trained.account.database.write() as session:
        session.execute(update(DeletionRequest).values(received_at=db.now(session) - timedelta(days=20)))
    assert batches.close_due(trained.account.database) == 0
    second = trained.delete(trained.ids[2:5])
    assert [status(trained, each) for each in (first, second)] == ["processing", "processing"]


@pytest.mark.validation
def test_a_forecast_comes_from_measured_durations(trained: Trained) -> None:
    before = trained.delete(trained.ids[:2])
    assert before["outcomes"][0]["forecast_at"] is None
    trained.account.work()
    after = trained.delete(trained.ids[2:4])
    assert after["outcomes"][0]["forecast_at"] >= after["received_at"]


@pytest.mark.validation
def test_validate_only_stores_nothing(trained: Trained) -> None:
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:3], "validate_only": True}
    preview = trained.account.post("/v1/deletion-requests", body, 200)
    assert (preview["samples"], preview["models"]) == (3, [trained.model])
    assert trained.account.get("/v1/deletion-requests")["items"] == []
    trained.delete(trained.ids[:3])
    is_problem(trained.account.http.post("/v1/deletion-requests", json=body), 409, "sample-requested")


# -- the law's verbs -------------------------------------------------------------------------------


def verb(trained: Trained, request: dict[str, Any], name: str, code: int = 200, **body: Any) -> dict[str, Any]:
    return trained.account.post(f"/v1/deletion-requests/{request['id']}:{name}", body, code)


@pytest.mark.validation
def test_a_cancelled_request_frees_its_samples_and_cancels_its_job(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    job = request["outcomes"][0]["job"]
    assert verb(trained, request, "cancel", reason="changed their mind")["status"] == "cancelled"
    assert trained.account.get(f"/v1/jobs/{job}")["state"] == "cancelled"
    again = trained.delete(trained.ids[:3])
    trained.account.work()
    assert status(trained, again) == "fulfilled"
    assert verb(trained, again, "cancel", 409, reason="too late")["type"].endswith("/carried-out")


@pytest.mark.validation
def test_a_request_whose_job_runs_cannot_be_stopped(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    with trained.account.database.write() as session:
        session.execute(update(Job).where(Job.id == request["outcomes"][0]["job"]).values(state=JobState.RUNNING))
    for name in ("cancel", "hold", "refuse"):
        assert verb(trained, request, name, 409, reason="no")["type"].endswith("/being-carried-out")


@pytest.mark.validation
def test_a_partial_grant_deletes_the_rest(trained: Trained) -> None:
    request = trained.delete(trained.ids[:5])
    shown = verb(trained, request, "refuse", reason="needed for a claim", sample_ids=trained.ids[:2])
    assert (shown["samples"], shown["samples_refused"], shown["status"]) == (3, 2, "processing")
    trained.account.work()
    final = trained.request(request)
    assert final["status"] == "fulfilled"
    assert set(trained.ids[:2]) <= set(trained.account.training_ids(trained.dataset))
    foreign = verb(trained, trained.delete(trained.ids[8:9]), "refuse", 422, reason="x", sample_ids=trained.ids[9:10])
    assert foreign["type"].endswith("/sample-foreign")


@pytest.mark.validation
def test_a_held_request_waits_and_goes_on_when_released(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    assert verb(trained, request, "hold", reason="court order")["status"] == "held"
    trained.account.work()
    batches.close_due(trained.account.database)
    trained.account.work()
    assert status(trained, request) == "held"
    assert trained.account.get(trained.where)["current_version"] == 1
    verb(trained, request, "release")
    trained.account.work()
    assert status(trained, request) == "fulfilled"


@pytest.mark.validation
def test_an_extension_moves_the_deadline_once_and_in_time(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    longer = verb(trained, request, "extend", reason="many requests")
    assert longer["due_at"] > request["due_at"]
    assert verb(trained, request, "extend", 409, reason="again")["type"].endswith("/extended-already")
    late = trained.delete(trained.ids[3:5])
    with trained.account.database.write() as session:
        past = db.now(session) - timedelta(days=60)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == late["id"]).values(received_at=past))
    assert verb(trained, late, "extend", 409, reason="late")["type"].endswith("/extension-too-late")
    assert [each["late"] for each in verb(trained, late, "refuse", reason="late")["refusals"]] == [True]


@pytest.mark.validation
def test_the_register_tells_it_all_and_names_nobody(trained: Trained) -> None:
    done = trained.forget(trained.ids[:2])
    refused = trained.delete(trained.ids[2:4])
    verb(trained, refused, "refuse", reason="=cmd()")
    entries = trained.account.get("/v1/compliance/register")
    assert [e["status"] for e in entries] == ["fulfilled", "refused"]
    text = trained.account.http.get("/v1/compliance/register", headers={"Accept": "text/csv"}).text
    assert "'=cmd()" in text
    assert not any(sample in text for sample in trained.ids[:4])
    summary = trained.account.get("/v1/compliance/summary")
    assert (summary["received"], summary["by_status"]["fulfilled"], summary["overdue"]) == (2, 1, [])
    assert done["id"] in text


FORMULAS = [
    *("=1", "+1", "-1", "@a", "\t=1", "\n=1", ";=1", " =1", "\uff1d1", "\u200b=1", '"=1', "\r", ",+1", "\uff20a"),
    *("a;=1", "a\t=1", "a|+1", "a\n=1", "a; =1", "a;\u200b=1", 'a;"=1', "\u2060=1", "\u202e=1", "\u00a0=1", "\u00ad=1"),
    *("\ufe66 1", "\u22121", "\ufe6ba", "a;\uff1d1", "\ufeff=1"),
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_the_register_is_a_formula(text: str) -> None:
    """Wherever a program ends a cell, and whatever it skips before one's beginning."""
    from app.deletions import compliance

    [page] = compliance.as_csv(iter([[dict.fromkeys(compliance.COLUMNS, text)]]))
    assert page.startswith("\ufeffrequest,"), "the mark that Excel needs to read UTF-8"
    [row] = list(csv.DictReader(io.StringIO(page.removeprefix("\ufeff"), newline="")))
    for value in row.values():
        assert value.replace("'", "") == text
        assert value[0] not in "\t\r\n"
        for cell in re.split(r"[;|\t\r\n]", value):
            seen = "".join(
                c for c in unicodedata.normalize("NFKC", cell) if unicodedata.category(c) not in ("Cf", "Cc")
            )
            assert not re.match("[=+@\u2212-]", seen.lstrip(' "')), repr(cell)


def test_a_plain_cell_stays_as_it_is() -> None:
    from app.deletions import compliance

    [page] = compliance.as_csv(iter([[dict.fromkeys(compliance.COLUMNS, "a = b; c-d")]]))
    assert "'" not in page


# -- many at once, subjects ------------------------------------------------------------------------


def test_lines_are_accepted_one_by_one_and_not_twice(trained: Trained) -> None:
    lines = [
        {"dataset": trained.dataset, "sample_ids": trained.ids[:2]},
        {"dataset": trained.dataset, "sample_ids": ["nobody"]},
        {"dataset": trained.dataset},
        {"dataset": trained.dataset, "sample_ids": trained.ids[2:3]},
    ]
    import json

    body = ("\ufeff" + "\n".join(json.dumps(line) for line in lines)).encode()  # as some editors begin a file
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "k1"}

    def send() -> list[dict[str, Any]]:
        response = trained.account.http.post("/v1/deletion-requests:import", content=body, headers=headers)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    first = send()
    assert [r["status"] for r in first] == [202, 422, 422, 202]
    assert [r["id"] for r in send()] == [r["id"] for r in first]
    assert len(trained.account.get("/v1/deletion-requests")["items"]) == 2


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.validation
def test_rolling_back_to_a_version_with_erased_samples_is_refused(trained: Trained) -> None:
    trained.forget(trained.ids[:3])
    is_problem(trained.account.http.post(f"{trained.where}:rollback"), 409, "contains-erased")
    is_problem(trained.account.http.post(f"{trained.where}/versions/1:promote"), 409, "contains-erased")
    is_problem(trained.account.http.put(f"{trained.where}/aliases/prod", json={"version": 1}), 409, "contains-erased")
    put = trained.account.http.put(f"{trained.where}/aliases/prod", json={"version": 2})
    assert put.json()["version"] == 2
    card = trained.account.http.get(f"{trained.where}/versions/2/model_card.md").text
    assert card.startswith("---\n")
    assert "unlearned" in card


def test_a_purged_model_keeps_its_record_and_no_bytes(trained: Trained) -> None:
    from functools import partial

    from app.blobs import usage
    from app.blobs.open import open_blobs
    from app.deletions import retention
    from app.jobs import outbox

    account = trained.account
    assert account.post(f"{trained.where}:purge", {}, 200)["current_version"] is None
    blobs = open_blobs(account.settings)
    outbox.relay_blobs(account.database, partial(usage.remove, account.database, blobs))
    assert retention.purge_due_versions(account.database, blobs) == 1
    is_problem(account.http.get(f"{trained.where}/versions/1/checkpoint"), 410, "purged")
    with account.database.read() as session:
        waiting = session.scalars(select(Job.id).where(Job.model_id == trained.model, Job.state == JobState.QUEUED))
        assert waiting.all() == []


@pytest.mark.validation
def test_a_purged_model_is_not_brought_back(trained: Trained) -> None:
    http, where = trained.account.http, trained.where
    trained.account.post(f"{where}:purge", {}, 200)  # the sweeper has yet to come
    is_problem(http.post(f"{where}/versions/1:promote"), 409, "model-purged")
    is_problem(http.put(f"{where}/aliases/prod", json={"version": 1}), 409, "model-purged")
    announced = {"digest": f"sha256:{'0' * 64}", "trained_on": "train-split"}
    is_problem(http.post(f"{where}/versions", json=announced), 409, "model-purged")
    is_problem(http.get(f"{where}/versions/1/checkpoint"), 410, "purged")
    assert trained.account.get(where)["current_version"] is None


@pytest.mark.validation
def test_a_purged_model_settles_the_requests_that_waited_for_it(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    trained.account.post(f"{trained.where}:purge", {}, 200)
    trained.account.work()
    final = trained.request(request)
    assert final["status"] == "fulfilled"
    assert final["outcomes"][0]["reason"] == "the whole model was purged"
    is_problem(trained.account.http.post(f"{trained.where}:train", json={}), 409, "model-purged")


@pytest.mark.validation
def test_a_purged_model_ends_no_hold(trained: Trained) -> None:
    request = trained.delete(trained.ids[:3])
    verb(trained, request, "hold", reason="court order")
    trained.account.post(f"{trained.where}:purge", {}, 200)
    trained.account.work()
    assert status(trained, request) == "held"
    assert set(trained.ids[:3]) <= set(trained.account.training_ids(trained.dataset))
    verb(trained, request, "release")
    trained.account.work()
    assert status(trained, request) == "fulfilled"


def test_what_was_refused_meanwhile_is_not_in_what_is_published(trained: Trained) -> None:
    """The first attempt has stored its stages for ten samples when six of them are refused."""
    from app import jobs as job_rows
    from app.rules.states import JobKind
    from worker import run_one
    from worker.jobs import unlearn
    from worker.runtime.run import JobError

    request = trained.delete(trained.ids[:10])
    real, stop = unlearn.audit, [JobError("stopped", "by the test")]

    def audit(*given: Any) -> Any:
        if stop:
            raise stop.pop()
        return real(*given)

    assert run_one.KINDS[JobKind.UNLEARN] is unlearn.unlearn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlearn, "audit", audit)
        trained.account.work()
        verb(trained, request, "refuse", reason="needed", sample_ids=trained.ids[:6])
        trained.account.post(f"/v1/jobs/{request['outcomes'][0]['job']}:retry")
        with trained.account.database.read() as session:
            before = {row.digest for row in job_rows.artifacts(session, request["outcomes"][0]["job"]).values()}
        trained.account.work()
    version = trained.account.get(f"{trained.where}/versions/2")
    report = trained.account.get(f"{trained.where}/versions/2/audit")["report"]
    assert version["digest"] not in before
    assert (report["forget_samples"], report["adversarial"]["total"]) == (4, 4)


@pytest.mark.validation
def test_what_a_failed_job_stored_goes_with_the_samples(trained: Trained) -> None:
    """A job fails after its attack; its request is cancelled; another one deletes the same samples."""
    from app import jobs as job_rows
    from app.blobs.open import open_blobs
    from worker.jobs import unlearn
    from worker.runtime.run import JobError

    def fails(*_: Any) -> Any:
        raise JobError("stopped", "by the test")

    request = trained.delete(trained.ids[:4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlearn, "finetune", fails)
        trained.account.work()
    with trained.account.database.read() as session:
        kept = [row.digest for row in job_rows.artifacts(session, request["outcomes"][0]["job"]).values()]
    assert kept
    verb(trained, request, "cancel", reason="later")
    assert trained.forget(trained.ids[:4])["status"] == "fulfilled"
    blobs = open_blobs(trained.account.settings)
    assert not any(digest in set(blobs.older_than(-60)) for digest in kept)


# -- keys and webhooks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "path", "body", "allowed"),
    [
        (["read"], "/v1/deletion-requests", {}, False),
        (["read"], "/v1/api-keys", {"name": "k", "scopes": ["read"]}, False),
        (["admin"], "/v1/api-keys", {"name": "k", "scopes": ["read"]}, True),
        (["request"], "/v1/webhooks", {"url": "https://example.com/"}, False),
    ],
)
@pytest.mark.validation
def test_a_key_does_what_its_scopes_allow(
    trained: Trained, scopes: list[str], path: str, body: dict[str, Any], allowed: bool
) -> None:
    made = trained.account.post("/v1/api-keys", {"name": "limited", "scopes": scopes})
    headers = {"Authorization": f"Bearer {made['token']}"}
    body = body or {"dataset": trained.dataset, "sample_ids": trained.ids[:1]}
    response = trained.account.http.post(path, json=body, headers=headers)
    assert (response.status_code < 300) == allowed, response.text
    if not allowed:
        is_problem(response, 403, "scope-missing")


@pytest.mark.validation
def test_a_rotated_key_ends_and_a_replay_does_not_show_the_secret(trained: Trained) -> None:
    account = trained.account
    made = account.post("/v1/api-keys", {"name": "k", "scopes": ["read"]}, **{"Idempotency-Key": "one"})
    again = account.post("/v1/api-keys", {"name": "k", "scopes": ["read"]}, **{"Idempotency-Key": "one"})
    assert made["token"]
    assert again.get("token") is None
    newer = account.post(f"/v1/api-keys/{made['id']}:rotate", {})
    for token, code in ((made["token"], 401), (newer["token"], 200)):
        headers = {"Authorization": f"Bearer {token}"}
        assert account.http.get("/v1/jobs", headers=headers).status_code == code
    assert account.http.delete(f"/v1/api-keys/{newer['id']}").status_code == 204
    for ended in (made, newer):  # one by its rotation, the other revoked
        before = len(account.get("/v1/api-keys")["items"])
        is_problem(account.http.post(f"/v1/api-keys/{ended['id']}:rotate", json={}), 409, "key-ended")
        assert len(account.get("/v1/api-keys")["items"]) == before


@pytest.mark.parametrize("days", [30, None])
@pytest.mark.validation
def test_a_key_rotated_again_within_its_overlap_leaves_the_newest_its_full_life(
    trained: Trained, days: int | None
) -> None:
    """The old key is rotated twice, as where the first successor's token was lost; then the successor in its turn."""
    account = trained.account
    first = account.post("/v1/api-keys", {"name": "k", "scopes": ["read"], "expires_in_days": days})["id"]

    def rotate(key: str, overlap: int) -> tuple[str, timedelta | None, str]:
        """The successor with its life, and when the old one ends."""
        new = account.post(f"/v1/api-keys/{key}:rotate", {"overlap_seconds": overlap})
        life = new["expires_at"] and moment(new["expires_at"]) - moment(new["created_at"])
        return new["id"], life, account.get(f"/v1/api-keys/{key}")["expires_at"]

    full = days and timedelta(days=days)
    lost, life, end = rotate(first, 600)
    assert life == full
    second, life, same = rotate(first, 3600)
    assert (life, same) == (full, end), "its overlap is not prolonged"
    third, life, ends = rotate(second, 3600)
    assert life == full
    assert ends > end
    assert account.get(f"/v1/api-keys/{first}")["expires_at"] == end
    _, life, cut = rotate(first, 0)
    assert life == full
    assert cut < end, "but may be cut short"
    assert {lost, second, third} <= {each["id"] for each in account.get("/v1/api-keys", valid=True)["items"]}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest",
        "https://100.64.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://user:pass@example.com/",
        "https://0x7f000001/",
        "ftp://example.com/",
    ],
)
@pytest.mark.validation
def test_a_webhook_to_a_private_address_is_refused(trained: Trained, url: str) -> None:
    is_problem(trained.account.http.post("/v1/webhooks", json={"url": url}), 422, "webhook-address")
