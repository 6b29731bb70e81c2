"""A reply is sent after the commit it speaks of, and a repeated POST does nothing twice."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core import db
from app.core.tables import Idempotency
from app.operations import sweeper
from tests.helpers import as_other, counts, is_problem
from tests.support import Account
from tests.trained import Trained

UPLOAD = {"name": "people", "source": {"name": "upload"}}


def commit_failing_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The next commit of a session that wrote something fails as a lost connection does."""
    commit = Session.commit
    failed: list[str] = []

    def failing(session: Session) -> None:
        if failed:
            return commit(session)
        failed.append("once")
        raise OperationalError("COMMIT", {}, Exception("the connection is gone"))

    monkeypatch.setattr(Session, "commit", failing)
    return failed


def test_a_deletion_whose_commit_fails_is_no_202_and_may_be_sent_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counts(trained.account.database)
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:3]}
    failed = commit_failing_once(monkeypatch)
    first = trained.account.http.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": "k"})
    is_problem(first, 503, "database-unavailable")
    assert failed
    assert counts(trained.account.database) == before
    second = trained.account.http.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": "k"})
    assert second.status_code == 202, second.text
    assert "idempotent-replayed" not in second.headers


def test_an_upload_whose_commit_fails_is_no_202(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    before = counts(account.database)
    commit_failing_once(monkeypatch)
    is_problem(account.http.post("/v1/datasets", json=UPLOAD), 503, "database-unavailable")
    assert counts(account.database) == before


def test_a_replay_answers_as_the_first_time(trained: Trained) -> None:
    http, headers = trained.account.http, {"Idempotency-Key": "a key!"}
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:3]}
    is_problem(http.post("/v1/deletion-requests", json=body, headers=headers), 422, "schema")  # a space
    headers = {"Idempotency-Key": "key-1"}
    first = http.post("/v1/deletion-requests", json=body, headers=headers)
    before = counts(trained.account.database)
    trained.account.work()
    again = http.post("/v1/deletion-requests", json=body, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert counts(trained.account.database)["deletion_requests"] == before["deletion_requests"] == 1

    other = http.post("/v1/deletion-requests", json=body | {"jurisdiction": "ccpa"}, headers=headers)
    is_problem(other, 422, "idempotency-key-reused")
    assert http.post("/v1/datasets", json=UPLOAD, headers=headers).status_code == 202, "another route"


def test_a_reply_is_kept_for_thirty_days(account: Account) -> None:
    body, headers = {"name": "d", "source": {"name": "upload"}}, {"Idempotency-Key": "key-1"}

    def again() -> str | None:
        response = account.http.post("/v1/datasets", json=body, headers=headers)
        return response.headers.get("idempotent-replayed")

    assert again() is None
    for days, replayed in ((29, "true"), (31, None)):
        with account.database.write() as session:
            session.execute(update(Idempotency).values(created_at=db.now(session) - timedelta(days=days)))
        sweeper.forget_replies(account.database)
        assert again() == replayed


def test_an_unfit_key_is_refused(shared: Trained) -> None:
    before = counts(shared.account.database)
    for key in ("", "x" * 256, "with space", "é", "tab\there"):
        headers = {"Idempotency-Key": key.encode("latin-1")}
        assert shared.account.http.post("/v1/datasets", json=UPLOAD, headers=headers).status_code == 422, key
    assert counts(shared.account.database) == before


def test_keys_are_per_tenant(account: Account) -> None:
    theirs, headers = as_other(account), {"Idempotency-Key": "same"}
    ours = account.http.post("/v1/datasets", json=UPLOAD, headers=headers)
    other = account.http.post("/v1/datasets", json=UPLOAD | {"name": "b"}, headers={**headers, **theirs})
    assert (ours.status_code, other.status_code) == (202, 202)
    assert ours.json()["id"] != other.json()["id"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/datasets", {"name": ""}, 422),
        ("/v1/models", {"name": "m", "dataset": "dst_" + "0" * 26, "architecture": {"name": "small_cnn"}}, 404),
        ("/v1/jobs/job_" + "0" * 26 + ":cancel", {}, 404),
    ],
)
def test_a_refused_post_leaves_its_key_unused(account: Account, path: str, body: Any, status: int) -> None:
    before = counts(account.database)
    headers = {"Idempotency-Key": "k"}
    assert account.http.post(path, json=body, headers=headers).status_code == status
    assert counts(account.database) == before
    assert account.http.post(path, json=body | {"new": 1}, headers=headers).status_code in (404, 422)
    assert account.http.post("/v1/datasets", json=UPLOAD, headers=headers).status_code == 202


def test_twenty_simultaneous_posts_with_one_key_are_one_request(trained: Trained) -> None:
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:5]}
    http = trained.account.http

    def post(_: int) -> Any:
        return http.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": "one"})

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(post, range(20)))
    assert {reply.status_code for reply in replies} == {202}, [r.text for r in replies if r.status_code != 202]
    assert len({reply.content for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    found = counts(trained.account.database)
    assert (found["deletion_requests"], found["idempotency"]) == (1, 1)


def test_simultaneous_requests_for_the_same_samples_are_accepted_once(trained: Trained) -> None:
    body = {"dataset": trained.dataset, "sample_ids": trained.ids[:5]}

    def post(_: int) -> Any:
        return trained.account.http.post("/v1/deletion-requests", json=body)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(post, range(8)))
    assert sorted(reply.status_code for reply in replies) == [202] + [409] * 7
    assert counts(trained.account.database)["deletion_requests"] == 1


def test_a_stored_reply_holds_no_plain_fingerprint_of_the_body(trained: Trained) -> None:
    """A digest of guessable ids is as good as the ids: fingerprints are keyed."""
    body = json.dumps({"dataset": trained.dataset, "sample_ids": trained.ids[:1]}).encode()
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    trained.account.http.post("/v1/deletion-requests", content=body, headers=headers)
    with trained.account.database.read() as session:
        row = session.get_one(Idempotency, ("ten_first", "/v1/deletion-requests", "k"))
    assert row.fingerprint != hashlib.sha256(body).hexdigest()
