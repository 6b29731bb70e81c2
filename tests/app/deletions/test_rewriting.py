"""What the database's own files keep of erased rows: nothing, once they are rewritten."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, update

from app.cases import retention
from app.core import db
from app.core.config import Settings
from app.core.tables import DeletionRequest, Receipt, Sample
from app.deletions import carried, rewriting
from app.deletions.rewriting import NotRewrittenError, Rewriter, rewrite
from app.evidence import sealing
from tests.app.datasets.test_suppression import IDS, IMAGES, NPZ, packed
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, Document, eventually
from tests.trained import Trained

SUBJECT = "subject-that-asked"


def address(trained: Trained) -> str:
    return trained.account.settings.database_url.replace("+psycopg", "")


def files(trained: Trained) -> dict[str, bytes]:
    """Every file of the database by its name: relations of PostgreSQL after a checkpoint, or SQLite's own."""
    if trained.account.database.is_sqlite:
        return {path.name: path.read_bytes() for path in trained.account.settings.data_dir.glob("lethe.db*")}
    relations = (
        "SELECT oid::regclass::text, pg_relation_filepath(oid) FROM pg_class WHERE relfilenode <> 0 OR relisshared"
    )
    with psycopg.connect(address(trained), autocommit=True) as admin:
        admin.execute("CHECKPOINT")
        found = {}
        for name, path in admin.execute(relations).fetchall():
            read = admin.execute("SELECT pg_read_binary_file(%s, 0, 1000000000, true)", (path,)).fetchone()
            found[name] = bytes(read[0] or b"") if read and path else b""
    return found


def found(trained: Trained, needles: list[str]) -> dict[str, int]:
    """How many of the needles are in each file that has any."""
    counts = {name: sum(each.encode() in data for each in needles) for name, data in files(trained).items()}
    return {name: count for name, count in counts.items() if count}


def of(document: Document, subject: str) -> list[Document]:
    return [receipt for receipt in document["receipts"] if receipt["subject"] == subject]


def analysed(trained: Trained) -> None:
    """As autovacuum does it: the planner's statistics quote ids."""
    if not trained.account.database.is_sqlite:
        with psycopg.connect(address(trained), autocommit=True) as admin:
            admin.execute("ANALYZE")


def named(trained: Trained, ids: list[str]) -> None:
    with trained.account.database.write() as session:
        session.execute(update(Sample).where(Sample.sample_id.in_(ids)).values(subject=SUBJECT))


def rewriter(trained: Trained, **changes: Any) -> Rewriter:
    return Rewriter(trained.account.database, trained.account.settings.model_copy(update=changes))


def run(duty: Rewriter) -> int:
    """Its round; again while a transaction of another test, in another database of the server, holds it up."""

    def once() -> int:
        duty._rest_until = 0.0
        return duty.round()

    return int(eventually(once, "the database to be rewritten"))


def test_no_id_is_left_in_any_file_of_the_database(trained: Trained) -> None:
    """As seen: 8 of 8 ids were found in heap and indexes after the request was fulfilled."""
    ids = trained.ids[3:60:7]
    named(trained, ids)
    analysed(trained)
    final = trained.forget(ids)
    assert final["status"] == "fulfilled"
    assert of(final, "database")[0]["done_at"] is None, "not claimed before it is done"
    if not trained.account.database.is_sqlite:
        assert found(trained, [*ids, SUBJECT]).keys() >= {"samples", "uq_samples_id", "pg_statistic"}
    assert run(rewriter(trained)) == 1
    assert found(trained, [*ids, SUBJECT]) == {}
    assert found(trained, [trained.ids[0]]), "what was not erased is there, so the search finds what is"
    (receipt,) = of(trained.request(final), "database")
    assert receipt["done_at"]
    assert receipt["detail"].startswith("rewritten with VACUUM")


@pytest.mark.validation
def test_a_write_ahead_log_of_sqlite_is_emptied(trained: Trained) -> None:
    account = trained.account
    with account.database.engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA journal_mode=wal")  # type: ignore[union-attr]
    ids = trained.ids[3:60:7]
    trained.forget(ids)
    assert found(trained, ids), "the log has the pages from before"
    assert run(rewriter(trained)) == 1
    assert found(trained, ids) == {}


def test_one_rewriting_serves_all_requests_and_then_rests(trained: Trained) -> None:
    duty = rewriter(trained)
    assert duty.round() == 0
    duty._rest_until += 60.0
    requests = [trained.forget(trained.ids[number : number + 2]) for number in (0, 10)]
    assert duty.round() == 0, "it rests after the first"
    assert run(duty) == 2
    assert all(of(trained.request(each), "database")[0]["done_at"] for each in requests)
    assert duty.round() == 0


def test_an_older_transaction_keeps_the_receipt_pending_and_says_so(trained: Trained) -> None:
    if trained.account.database.is_sqlite:
        return  # it locks and allows otherwise
    with psycopg.connect(address(trained)) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM tenants")
        final = trained.forget(trained.ids[:4])
        duty = rewriter(trained)
        assert duty.round() == 0
        (receipt,) = of(trained.request(final), "database")
        assert receipt["done_at"] is None
        assert "an older transaction may still read what was erased" in receipt["detail"]
    assert run(duty) == 1


def test_a_reader_is_not_waited_for(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody waits behind us for longer than that."""
    if trained.account.database.is_sqlite:
        return  # it locks and allows otherwise
    monkeypatch.setattr(rewriting, "LOCK_SECONDS", 0.05)
    with psycopg.connect(address(trained)) as reader:
        reader.execute("SELECT count(*) FROM samples")
        with pytest.raises(NotRewrittenError, match="others were using the tables"):
            rewrite(trained.account.database)
    assert eventually(lambda: _rewritten(trained), "the database to be rewritten")
    with trained.account.database.read() as session:
        limits = [
            session.connection().exec_driver_sql(f"SHOW {name}_timeout").scalar() for name in ("lock", "statement")
        ]
    assert limits == ["30s", "2min"], "the connection is as it was"


@pytest.mark.validation
def test_a_writer_of_sqlite_is_not_waited_for(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "LOCK_SECONDS", 0.05)
    database = trained.account.database
    with database.write(), pytest.raises(NotRewrittenError, match="others were using the file"):
        rewrite(database)
    assert rewrite(database)
    with database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        assert raw.execute("PRAGMA busy_timeout").fetchone() == (db.BUSY_SECONDS * 1000,)


def _rewritten(trained: Trained) -> str:
    try:
        return rewrite(trained.account.database)
    except NotRewrittenError:
        return ""


def test_a_role_that_may_not_is_named_in_the_receipt(trained: Trained) -> None:
    if trained.account.database.is_sqlite:
        return  # it locks and allows otherwise
    final = trained.forget(trained.ids[:4])
    with psycopg.connect(address(trained), autocommit=True) as admin:
        admin.execute("CREATE ROLE lethe_other LOGIN")
        try:
            admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO lethe_other")
            url = trained.account.settings.database_url.replace("postgres@", "lethe_other@", 1)
            other = Settings(data_dir=trained.account.settings.data_dir, database_url=url)
            database = db.Database(other)
            try:
                assert Rewriter(database, other).round() == 0
            finally:
                database.close()
        finally:
            admin.execute("DROP OWNED BY lethe_other")
            admin.execute("DROP ROLE lethe_other")
    (receipt,) = of(trained.request(final), "database")
    assert receipt["done_at"] is None
    assert "not allowed: skipping" in receipt["detail"]


def test_large_tables_wait_for_the_quiet_hour(trained: Trained) -> None:
    trained.forget(trained.ids[:2])
    with trained.account.database.read() as session:
        hour = db.now(session).hour
    assert rewriter(trained, rewrite_bytes=0, rewrite_hour=(hour + 12) % 24).round() == 0
    assert run(rewriter(trained, rewrite_bytes=0, rewrite_hour=hour)) == 1


def test_copies_elsewhere_are_named_with_the_date_that_the_operator_states(trained: Trained) -> None:
    sqlite = trained.account.database.is_sqlite
    final = trained.forget(trained.ids[:2])
    assert run(rewriter(trained, backups_kept_days=30.0, wal_kept_days=7.0)) == 1
    document = trained.request(final)
    (done,), (backups,) = of(document, "database"), of(document, "backups")
    assert backups["due_at"][:10] == f"{db.datetime.fromisoformat(done['done_at']) + timedelta(days=30):%Y-%m-%d}"
    assert backups["done_at"] is None, "the service does not see them, so it does not say that they are gone"
    assert "LETHE_BACKUPS_KEPT_DAYS" in backups["detail"]
    assert len(of(document, "write-ahead-logs")) == (0 if sqlite else 1)
    assert "not stated" not in done["detail"]


def test_what_the_operator_has_not_stated_is_said(trained: Trained) -> None:
    final = trained.forget(trained.ids[:2])
    run(rewriter(trained))
    document = trained.request(final)
    assert not of(document, "backups")
    assert of(document, "database")[0]["detail"].endswith("kept is not stated")


@pytest.mark.validation
def test_the_first_certificate_says_that_it_is_done(trained: Trained) -> None:
    """The sweeper rewrites before it seals, in one round."""
    account = trained.account
    final = trained.forget(trained.ids[:2])
    run(rewriter(trained))
    key = sealing.open_key(account.database, account.settings)
    assert sealing.seal_due(account.database, key, account.settings.log_name) == 1
    with account.database.read() as session:
        assert "rewritten with VACUUM" in str(_payload(sealing.latest(session, final["id"]).envelope))  # type: ignore[union-attr]


def _payload(envelope: str) -> Any:
    import base64
    import json

    return json.loads(base64.b64decode(json.loads(envelope)["payload"]))


@pytest.mark.validation
def test_what_has_no_receipt_is_rewritten_too(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried data that no request took, and what was erased before this process began."""
    ran: list[str] = []
    monkeypatch.setattr(rewriting, "rewrite", lambda _, cases: ran.append(f"cases {cases}") or "")
    duty = rewriter(trained)
    duty.round()
    duty._rest_until = 0.0
    duty.round()
    assert len(ran) == 1
    duty.owe(carried.expire(trained.account.database))
    duty.round()
    assert len(ran) == 1, "nothing had expired"
    duty.owe(1)
    duty.round()
    duty.owe_cases(0)
    duty._rest_until = 0.0
    duty.round()
    duty.owe_cases(1)
    duty.round()
    assert ran == ["cases True", "cases False", "cases True"]


def test_large_tables_of_requests_wait_for_a_quiet_hour_and_ids_do_not(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trained.account.database.is_sqlite:
        return  # it has one file
    ran: list[bool] = []
    monkeypatch.setattr(rewriting, "rewrite", lambda _, cases: ran.append(cases) or "")
    with trained.account.database.read() as session:
        small, hour = rewriting.size(session), db.now(session).hour
    duty = rewriter(trained, rewrite_bytes=small, rewrite_hour=(hour + 12) % 24)
    for _ in range(2):
        duty.round()
        duty._rest_until = 0.0
    assert ran == [False], "once, for what may have been erased before"
    duty = rewriter(trained, rewrite_bytes=small, rewrite_hour=hour)
    duty.round()
    assert ran == [False, True]


CLASS = "Änn Zzyzx"


@pytest.mark.validation
def test_the_name_of_a_class_goes_from_replies_about_its_dataset_alone(account: Account) -> None:
    """As seen: a class called as a member of the document broke a reply about another dataset."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0, "class_names": ["state", "b"]}}
    once: Document = {"name": "e", "source": source}
    first = account.post("/v1/datasets", once | {"name": "d"}, **{"Idempotency-Key": "one"})["id"]
    other = account.post("/v1/datasets", once, **{"Idempotency-Key": "two"})
    account.http.put(f"/v1/datasets/{first}/content", content=packed(IMAGES, IDS), headers={"Content-Type": NPZ})
    account.work()
    account.delete(first, IDS[::2])
    account.work()
    assert account.post("/v1/datasets", once, **{"Idempotency-Key": "two"}) == other
    again = account.post("/v1/datasets", once | {"name": "d"}, **{"Idempotency-Key": "one"})
    assert (again["state"], again["source"]["params"]["class_names"]) == ("awaiting-content", [None, "b"])


def test_no_name_of_an_erased_class_is_left_in_replies_files_or_jobs(account: Account) -> None:
    """As seen: a kept reply told it again for a month, PostgreSQL's file of models had it, and so had a job."""
    source = {"name": "upload", "params": {"holdout_fraction": 0.0, "class_names": [CLASS, "bob"]}}
    once: Document = {"name": "d", "source": source}
    first = account.post("/v1/datasets", once, **{"Idempotency-Key": "once-1"})["id"]
    body = {"dataset": first, **QUICK_MODEL, "policy": QUICK_POLICY}
    outputs: Document = {"name": "m", **body, "input": {"class_names": ["bob", CLASS]}}
    model = account.post("/v1/models", outputs, **{"Idempotency-Key": "once-2"})["id"]
    other = account.post("/v1/models", {"name": "n", **body, "input": {"class_names": ["bob", "carl"]}})["id"]
    sent = account.http.put(f"/v1/datasets/{first}/content", content=packed(IMAGES, IDS), headers={"Content-Type": NPZ})
    assert sent.status_code == 202
    account.work()
    failed = account.post(f"/v1/models/{other}:train", {"seed": 1})["id"]
    account.work()
    made = account.delete(first, IDS[::2], allow_data_loss=True)
    account.work()
    here = Trained(account, first, model, IDS)
    analysed(here)
    run(rewriter(here))
    request = here.request(made)
    assert request["status"] == "fulfilled"
    assert len(of(request, "class-names")) == 1
    for path, said, key, same in (("/v1/datasets", once, "once-1", first), ("/v1/models", outputs, "once-2", model)):
        again = account.http.post(path, json=said, headers={"Idempotency-Key": key})
        assert again.json()["id"] == same
        assert CLASS not in again.text
    assert account.get(f"/v1/jobs/{failed}")["state"] == "failed"
    assert found(here, ["Zzyzx"]) == {}


PLANTED = "Wilhelmina-von-Plantagenet"
ONCE = {"Idempotency-Key": "once"}


def test_no_name_of_a_person_is_left_in_any_file_once_its_retention_is_over(trained: Trained) -> None:
    """References, letters, notes, reasons, notices and case files, in heap, TOAST, indexes and statistics."""
    account = trained.account
    account.http.put("/v1/compliance/rules", json={"keep_months": 1}).raise_for_status()
    made = trained.forget(trained.ids[:2], reference=f"letter of {PLANTED}")
    where = f"/v1/deletion-requests/{made['id']}"
    account.post(f"{where}/notices", {"kind": "completion"})
    letter = base64.b64encode(f"I am {PLANTED}. ".encode() * 2000).decode()
    account.post(f"{where}/papers", {"kind": "letter", "name": f"{PLANTED}.pdf", "content": letter})
    refused = trained.delete(trained.ids[4:6], reference=PLANTED)
    path = f"/v1/deletion-requests/{refused['id']}"
    account.post(f"{path}:identity", {"status": "confirmed", "note": f"saw {PLANTED}'s passport"})
    account.post(f"{path}:extend", {"reason": f"{PLANTED} sent 300 letters"}, **ONCE)
    account.post(f"{path}:refuse", {"reason": f"{PLANTED} was found to be a king"})
    run(rewriter(trained))  # the ids: what names people stays
    analysed(trained)
    assert found(trained, [PLANTED])
    with account.database.write() as session:
        for row in session.scalars(select(DeletionRequest)):
            row.fulfilled_at = row.fulfilled_at and row.fulfilled_at - timedelta(days=60)
            row.decided_at = row.decided_at and row.decided_at - timedelta(days=60)
    # A reply that is kept for a client that asks again goes at once with what it tells, however young.
    assert account.http.post(f"{path}:extend", json={"reason": f"{PLANTED} sent 300 letters"}, headers=ONCE).is_success
    duty = rewriter(trained)
    assert duty.owe_cases(retention.erase_due(account.database)) == 2
    if not account.database.is_sqlite:
        assert found(trained, [PLANTED]).keys() >= {"deletion_requests", "case_details", "ix_case_reference"}

    def once() -> bool:
        duty._rest_until = 0.0
        duty.round()
        return not duty._cases_owing

    eventually(once, "the tables of requests to be rewritten")
    assert found(trained, [PLANTED]) == {}
    assert account.get(path)["status"] == "refused"


def test_a_request_that_is_not_fulfilled_owes_nothing(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2])
    with trained.account.database.read() as session:
        assert session.get_one(DeletionRequest, made["id"]).fulfilled_at is None
        assert not session.scalars(select(Receipt).where(Receipt.subject == "database")).all()


def test_the_files_searched_are_all_of_them(trained: Trained) -> None:
    names = files(trained).keys()
    wanted = {"lethe.db"} if trained.account.database.is_sqlite else {"samples", "ix_samples_subject", "pg_statistic"}
    assert wanted <= names


@pytest.mark.validation
def test_no_journal_of_sqlite_is_left(trained: Trained) -> None:
    trained.forget(trained.ids[:2])
    run(rewriter(trained))
    assert not list(trained.account.settings.data_dir.glob("lethe.db-*"))
