"""Requests that are accepted together: each gets what it would have got alone, in the order in which they came."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DataError, OperationalError

from app.api.deletions import _reply, order_of
from app.api.http.intake import Intake, Posted
from app.api.http.replies import Reply
from app.api.schemas import DeletionCreate
from app.core import db, keys
from app.core.db import Database
from app.core.errors import AppError
from app.core.tables import ApiKey, Dataset, DeletionRequest, Idempotency, Job, OutcomeRow
from app.deletions import accept
from tests.helpers import counts, other_tenant
from tests.support import eventually
from tests.trained import Trained

ROUTE = "/v1/deletion-requests"
BATCH = {"when": {"mode": "batch", "max_requests": 3}}


class Group:
    """Orders to be accepted as one group."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.token = trained.account.settings.key_file.read_text().strip()
        self.posted: list[Posted] = []

    def add(self, ids: list[str], key: str | None = None, token: str = "", **fields: Any) -> Group:
        body = {"dataset": self._trained.dataset, "sample_ids": ids, **fields}
        raw = json.dumps(body).encode()
        order = partial(order_of, DeletionCreate.model_validate(body))
        self.posted.append(Posted(token or self.token, order, ROUTE, key, raw, _reply))
        return self

    def run(self) -> list[tuple[int, str]]:
        """Status of each, and the id of what was made or the kind of what was wrong."""
        account = self._trained.account
        replies = Intake(account.database, account.settings)(self.posted)
        self.posted = []
        return [told(reply) for reply in replies]


def told(reply: Reply | Exception) -> tuple[int, str]:
    if isinstance(reply, AppError):
        return reply.status, reply.kind
    assert isinstance(reply, Reply), reply
    return reply.status, json.loads(reply.text).get("id", "")


@pytest.mark.validation
def test_a_wrong_order_harms_none_of_its_neighbours(trained: Trained) -> None:
    a, b, c, *_ = trained.ids
    group = Group(trained).add([a]).add(["nobody"]).add([b, b]).add([b])
    group.add([c], dataset="dst_" + "0" * 26).add([c], model="mdl_" + "0" * 26).add(trained.ids).add([c])
    found = group.run()
    assert [status for status, _ in found] == [202, 422, 422, 202, 404, 404, 409, 202]
    assert [kind for status, kind in found if status != 202] == [
        "sample-unknown", "sample-duplicated", "not-found", "not-found", "sample-requested",
    ]  # fmt: skip
    stored = counts(trained.account.database)
    assert (stored["deletion_requests"], stored["outcomes"]) == (3, 3)
    trained.account.work()
    assert all(trained.request({"id": made})["status"] == "fulfilled" for status, made in found if status == 202)


@pytest.mark.validation
def test_of_two_orders_for_one_sample_the_first_is_accepted(trained: Trained) -> None:
    a, b, c, *_ = trained.ids
    found = Group(trained).add([a, b]).add([b, c]).add([c]).add([a], model=trained.model).run()
    assert [status for status, _ in found] == [202, 409, 202, 409]
    assert {kind for status, kind in found if status == 409} == {"sample-requested"}
    # As alone: one for the model, then one for the whole dataset; not the other way about.
    d = trained.ids[5]
    found = Group(trained).add([d], model=trained.model).add([d]).add([d], model=trained.model).run()
    assert [status for status, _ in found] == [202, 202, 409]


@pytest.mark.validation
def test_validate_only_takes_nothing_from_its_neighbours(trained: Trained) -> None:
    a = trained.ids[0]
    found = Group(trained).add([a], validate_only=True).add([a]).add([a], validate_only=True).run()
    assert [status for status, _ in found] == [200, 202, 409]
    assert counts(trained.account.database)["deletion_requests"] == 1


@pytest.mark.validation
def test_losing_a_class_is_judged_on_what_the_orders_before_have_taken(trained: Trained) -> None:
    page = trained.account.get(f"/v1/datasets/{trained.dataset}/samples", split="train", page_size=1000)
    threes = [item["id"] for item in page["items"] if item["label"] == 3]
    half = len(threes) // 2
    found = Group(trained).add(threes[:half]).add(threes[half:]).add(threes[half:-1]).run()
    assert found[1] == (409, "data-loss")
    assert [status for status, _ in found] == [202, 409, 202]


@pytest.mark.validation
def test_twins_of_one_group_are_one_request(trained: Trained) -> None:
    a, b, *_ = trained.ids
    group = Group(trained).add([a], key="k").add([a], key="k").add([b], key="k").add([b], key="other").add([a], key="k")
    found = group.run()
    assert [status for status, _ in found] == [202, 202, 422, 202, 202]
    assert found[0] == found[1] == found[4]
    assert found[2] == (422, "idempotency-key-reused")
    again = Group(trained).add([a], key="k").add([b], key="k").run()
    assert again == [found[0], (422, "idempotency-key-reused")]
    stored = counts(trained.account.database)
    assert (stored["deletion_requests"], stored["idempotency"]) == (2, 2)


@pytest.mark.validation
def test_a_refused_order_leaves_its_key_to_the_twin_after_it(trained: Trained) -> None:
    a = trained.ids[0]
    found = Group(trained).add(["nobody"], key="k").add(["nobody"], key="k").add([a], key="k").add([a], key="k").run()
    assert [status for status, _ in found] == [422, 422, 202, 202]
    assert found[2] == found[3]
    assert counts(trained.account.database)["idempotency"] == 1


@pytest.mark.validation
def test_a_replayed_reply_is_the_stored_text(trained: Trained) -> None:
    group = Group(trained).add(trained.ids[:1], key="k")
    account = trained.account
    work = Intake(account.database, account.settings)
    (first,), (second,) = work(group.posted), work(group.posted)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert second.text == first.text
    assert dict(second.headers) == {**first.headers, "Idempotent-Replayed": "true"}


def test_every_caller_of_a_group_is_judged_alone(trained: Trained) -> None:
    """A revoked key, one without the scope, one that expired, nobody's, and another tenant's."""
    account = trained.account
    a, b, *_ = trained.ids
    with account.database.write() as session:
        made = {
            name: keys.create(session, keys.FIRST_TENANT, name, scopes)
            for name, scopes in (("revoked", keys.SCOPES), ("narrow", ("read",)), ("old", keys.SCOPES))
        }
        now = db.now(session)
        session.execute(update(ApiKey).where(ApiKey.name == "revoked").values(revoked_at=now))
        session.execute(update(ApiKey).where(ApiKey.name == "old").values(expires_at=now - timedelta(seconds=1)))
    tokens = [made[name][1] for name in ("revoked", "narrow", "old")]
    group = Group(trained)
    for token in [*tokens, "nonsense", "lethe_nobody_x", other_tenant(account)]:
        group.add([a], token=token)
    found = group.add([a]).add([b], key="k", token=tokens[0]).add([b], key="k").run()
    assert [status for status, _ in found] == [401, 403, 401, 401, 401, 404, 202, 401, 202]
    assert counts(account.database)["deletion_requests"] == 2


@pytest.mark.validation
def test_of_two_processes_racing_for_a_sample_one_is_accepted(trained: Trained) -> None:
    """Each on connections of its own, as processes have them."""
    account = trained.account
    rounds = [[trained.ids[3 * n : 3 * n + 3], trained.ids[3 * n + 2 : 3 * n + 5]] for n in range(0, 16, 2)]
    found: dict[int, list[tuple[int, str]]] = {0: [], 1: []}
    ready = threading.Barrier(2)

    def race(side: int) -> None:
        database = Database(account.settings)
        work = Intake(database, account.settings)
        for both in rounds:
            posted = Group(trained).add(both[side]).posted
            ready.wait()
            found[side] += [told(reply) for reply in work(posted)]
        database.close()

    threads = [threading.Thread(target=race, args=(side,)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [{a[0], b[0]} for a, b in zip(found[0], found[1], strict=True)] == [{202, 409}] * len(rounds)


@pytest.mark.parametrize("trained", [pytest.param("postgres", marks=pytest.mark.services)], indirect=True)
def test_a_locked_dataset_holds_up_its_own_deletions_alone(trained: Trained) -> None:
    """Through the API: groups of one dataset wait for its row, those of another go on, one after the other."""
    account = trained.account
    other = account.digits()["id"]
    ids = iter(trained.ids)
    with ThreadPoolExecutor(8) as clients:

        def post(dataset: str) -> Future[Any]:
            return clients.submit(account.delete, dataset, [next(ids)])

        with account.database.write() as session:
            session.execute(select(Dataset.id).where(Dataset.id == trained.dataset).with_for_update())
            held_up = [post(trained.dataset) for _ in range(4)]
            eventually(lambda: waiting_for_locks(account.database), "a group to wait for the row", 20)
            for _ in range(3):
                assert post(other).result(timeout=20)["dataset"] == other
            assert not any(reply.done() for reply in held_up)
        assert {reply.result(timeout=20)["dataset"] for reply in held_up} == {trained.dataset}


def waiting_for_locks(database: Database) -> int:
    with database.read() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return int(session.execute(text(query)).scalar_one())


@pytest.mark.validation
def test_one_key_of_two_tenants_is_two_keys(trained: Trained) -> None:
    theirs = other_tenant(trained.account)
    a = trained.ids[0]
    found = Group(trained).add([a], key="k", token=theirs).add([a], key="k").run()
    assert [status for status, _ in found] == [404, 202]


def test_under_each_every_request_has_its_job_in_the_order_they_came(trained: Trained) -> None:
    group = Group(trained)
    for name in trained.ids[:6]:
        group.add([name])
    made = [found for _, found in group.run()]
    with trained.account.database.read() as session:
        query = select(OutcomeRow.request_id).join(Job, Job.id == OutcomeRow.job_id).order_by(Job.id)
        assert list(session.scalars(query)) == made
        assert session.scalars(select(func.count()).select_from(Job).where(Job.kind == "unlearn")).one() == 6
        times = set(session.scalars(select(DeletionRequest.received_at)))
    assert len(times) == 1
    trained.account.work()
    assert [trained.request({"id": request})["outcomes"][0]["version"] for request in made] == [2, 3, 4, 5, 6, 7]


def test_under_batch_a_full_group_closes_the_batch_once(trained: Trained) -> None:
    account = trained.account
    policy = account.get(trained.where)["policy"]
    account.http.put(f"{trained.where}/policy", json=policy | BATCH)
    two = Group(trained).add(trained.ids[:1]).add(trained.ids[1:2]).run()
    with account.database.read() as session:
        assert set(session.scalars(select(OutcomeRow.state))) == {"pending"}
    more = Group(trained).add(trained.ids[2:3]).add(trained.ids[3:4]).run()
    with account.database.read() as session:
        assert set(session.scalars(select(OutcomeRow.state))) == {"batched"}
        assert len(set(session.scalars(select(OutcomeRow.job_id)))) == 1
    assert {status for status, _ in two + more} == {202}


def test_what_another_rule_left_waiting_goes_first(trained: Trained) -> None:
    account = trained.account
    policy = account.get(trained.where)["policy"]
    account.http.put(f"{trained.where}/policy", json=policy | BATCH)
    old = [found for _, found in Group(trained).add(trained.ids[:1]).add(trained.ids[1:2]).run()]
    account.http.put(f"{trained.where}/policy", json=policy)
    Group(trained).add(trained.ids[2:3]).run()
    with account.database.read() as session:
        first = select(OutcomeRow.request_id).join(Job, Job.id == OutcomeRow.job_id).order_by(Job.id)
        assert session.scalars(first).first() == old[0]


@pytest.mark.validation
def test_two_datasets_and_subjects_in_one_group(trained: Trained) -> None:
    account = trained.account
    source = {"name": "digits", "params": {"seed": 1}}
    other = account.post("/v1/datasets", {"name": "other", "source": source})["id"]
    account.work()
    theirs = account.training_ids(other)[:2]
    a, b, *_ = trained.ids
    found = Group(trained).add([a]).add(theirs, dataset=other).add([b]).add(theirs[:1], dataset=other).run()
    assert [status for status, _ in found] == [202, 202, 202, 409]


@pytest.mark.validation
def test_a_database_that_fails_accepts_none_of_them(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    before = counts(trained.account.database)

    def failing(*_: Any, **__: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(accept.batches, "enter", failing)
    group = Group(trained).add(trained.ids[:1]).add(trained.ids[1:2], key="k")
    with pytest.raises(OperationalError):
        group.run()
    monkeypatch.undo()
    assert counts(trained.account.database) == before


def test_an_order_that_no_database_takes_is_refused_alone(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    enter = accept.batches.enter

    def picky(session: Any, entries: Any, *rest: Any) -> Any:
        rows = session.execute(select(DeletionRequest.id).where(DeletionRequest.basis == "poison")).all()
        if rows:
            raise DataError("INSERT", {}, Exception("no such text"))
        return enter(session, entries, *rest)

    monkeypatch.setattr(accept.batches, "enter", picky)
    a, b, c, *_ = trained.ids
    group = Group(trained).add([a]).add([b], basis="poison").add([c])
    replies = Intake(trained.account.database, trained.account.settings)(group.posted)
    assert [isinstance(reply, Reply) for reply in replies] == [True, False, True]
    assert isinstance(replies[1], DataError)
    assert counts(trained.account.database)["deletion_requests"] == 2


@pytest.mark.validation
def test_import_lines_share_transactions_and_keep_their_order(trained: Trained) -> None:
    a, b, c, *_ = trained.ids
    bodies = [[a], [a], ["nobody"], [b, c], [c]]
    lines = [json.dumps({"dataset": trained.dataset, "sample_ids": ids}) for ids in bodies] + ["no json"]
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "once"}
    http = trained.account.http
    first = http.post(f"{ROUTE}:import", content="\n".join(lines), headers=headers)
    found = [json.loads(line) for line in first.text.splitlines()]
    assert [line["status"] for line in found] == [202, 409, 422, 202, 409, 422]
    assert [line["line"] for line in found] == list(range(6))
    apart = http.post(
        f"{ROUTE}:import", content="\n\n".join(["", "no json", "{}"]), headers={**headers, "Idempotency-Key": "2"}
    )
    assert [json.loads(line)["line"] for line in apart.text.splitlines()] == [2, 4], "as an editor counts them"
    again = [json.loads(line) for line in http.post(f"{ROUTE}:import", content="\n".join(lines), headers=headers)
             .text.splitlines()]  # fmt: skip
    assert [line["id"] for line in again] == [line["id"] for line in found]
    with trained.account.database.read() as session:
        assert session.scalars(select(func.count()).select_from(Idempotency)).one() == 2


@pytest.mark.validation
def test_dates_come_from_the_databases_clock(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's clock is a year behind: what is stored is not."""
    real = datetime.now

    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return real(tz) - timedelta(days=365)

    monkeypatch.setattr("app.core.db.datetime", Late)
    monkeypatch.setattr("time.time", lambda: 1.0e9)
    (found,) = Group(trained).add(trained.ids[:1]).run()
    monkeypatch.undo()
    shown = trained.request({"id": found[1]})
    assert shown["received_at"][:4] == str(real().year)
    assert shown["due_at"] > shown["received_at"]
