"""The checker: silent on a life that went well, and each planted fault is found by its rule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.blobs import usage
from app.blobs.open import Blobs, open_blobs
from app.cli.main import cli
from app.core import db
from app.core.config import Settings, get_settings
from app.core.db import Database
from app.core.ids import new_id
from app.core.positions import bitmap
from app.core.tables import (
    Alias,
    AuditEvent,
    CertificateRow,
    Dataset,
    DeletionRequest,
    Job,
    JobEvent,
    LogHead,
    Model,
    NegativeReport,
    Outbox,
    OutcomeRow,
    Receipt,
    Sample,
    Tally,
    TallyChange,
    Version,
)
from app.deletions import retention
from app.evidence import negative, sealing
from app.jobs import outbox
from app.recovery import checker
from app.recovery.checker import Violation
from tests.support import Account
from tests.trained import Trained


def swept(trained: Trained) -> None:
    """What the sweeper does until nothing is left."""
    account = trained.account
    database, blobs = account.database, open_blobs(account.settings)
    retention.purge_due_versions(database, blobs)
    usage.remove_leftovers(database, blobs)
    while outbox.relay_hints(database, outbox.discard):
        pass
    while outbox.relay_blobs(database, lambda digest: usage.remove(database, blobs, digest)):
        pass
    key = sealing.open_key(database, account.settings)
    sealing.seal_due(database, key, account.settings.log_name)
    negative.seal_due(database, key, account.settings.log_name)
    while sealing.sequence_waiting(database, key, account.settings.log_name):
        pass


def violations(trained: Trained, **how: bool) -> list[Violation]:
    account = trained.account
    return checker.check(account.database, open_blobs(account.settings), **how)


def live(trained: Trained) -> Trained:
    """A deletion from all models, one from this model alone, and an alias."""
    trained.account.http.put(f"{trained.where}/aliases/production", json={"version": 1})
    trained.forget(trained.ids[:3])
    trained.forget(trained.ids[5:7], model=trained.model)
    swept(trained)
    return trained


@pytest.fixture(scope="module")
def folder(shared: Trained) -> Path:
    """The data folder after such a life."""
    return live(shared).account.settings.data_dir


@pytest.fixture
def lived(shared: Trained, folder: Path, tmp_path: Path) -> Iterator[Trained]:
    """A copy of it."""
    shutil.copytree(folder, tmp_path / "data")
    settings = Settings(data_dir=tmp_path / "data")
    database = Database(settings)
    yield Trained(Account(settings, database, shared.account.http), shared.dataset, shared.model, shared.ids)
    database.close()


def test_a_life_that_went_well_has_no_violation(trained: Trained) -> None:
    lived = live(trained)
    assert violations(lived, at_rest=True) == []
    with lived.account.database.read() as session:
        assert session.scalars(select(DeletionRequest.fulfilled_at)).all()
        assert session.scalars(select(CertificateRow.digest)).all()
        assert session.scalars(select(Alias.name)).all()


def test_what_is_under_way_is_right_until_all_should_be_at_rest(trained: Trained) -> None:
    swept(trained)
    made = trained.delete(trained.ids[:3])
    assert violations(trained) == []
    found = {(each.rule, each.object) for each in violations(trained, at_rest=True)}
    assert ("open-requests", made["id"]) in found
    assert {rule for rule, _ in found} == {"open-requests", "job-leases", "outbox", "log-trees"}


# -- planted faults --------------------------------------------------------------------------------

Plant = Callable[[Session, Blobs, Trained], Any]


def first(session: Session, row: type[Any]) -> Any:
    return session.scalars(select(row).limit(1)).first()


def ended_job(session: Session) -> Job:
    return session.scalars(select(Job).where(Job.state == "succeeded").limit(1)).one()


def a_blob_is_lost(session: Session, blobs: Blobs, trained: Trained) -> None:
    current = session.scalars(select(Version).where(Version.state == "current")).one()
    assert open_blobs(trained.account.settings).delete(current.digest)


def counted_twice(session: Session, blobs: Blobs, trained: Trained) -> None:
    for table in (Tally, TallyChange):
        session.execute(update(table).where(table.name == "request").values(requests=2 * table.requests))


def a_blob_is_damaged(session: Session, blobs: Blobs, trained: Trained) -> None:
    digest = session.scalars(select(Version.digest).where(Version.state == "current")).one()
    path = blobs.fetch(digest)
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])


def removed_bytes_come_back(session: Session, blobs: Blobs, trained: Trained) -> None:
    stored = blobs.put(b"of an erased sample")
    request = first(session, DeletionRequest)
    session.add(
        Receipt(
            id=new_id("rcp"),
            request_id=request.id,
            subject="x",
            detail="",
            digest=stored.digest,
            done_at=db.now(session),
        )
    )


def pixels_are_left(session: Session, blobs: Blobs, trained: Trained) -> None:
    dataset = session.get_one(Dataset, trained.dataset)
    images = np.load(blobs.fetch(dataset.images or ""))
    with blobs.scratch("test") as path:
        np.save(path.with_suffix(".npy"), images + 1)
        path.with_suffix(".npy").rename(path)
        dataset.images = blobs.adopt(path).digest


def erased_sample(session: Session) -> Sample:
    return session.scalars(select(Sample).where(Sample.sample_id.startswith("erased:")).limit(1)).one()


def trained_on_all(session: Session, blobs: Blobs, trained: Trained) -> None:
    size = session.get_one(Dataset, trained.dataset).sample_count
    whole = bitmap(np.arange(size), size)
    session.execute(update(Version).where(Version.state == "current").values(trained_on=whole))


def a_second_certificate(session: Session, blobs: Blobs, trained: Trained) -> None:
    one = first(session, CertificateRow)
    values = {
        name: getattr(one, name) for name in ("tenant_id", "request_id", "receipts_done", "envelope", "issued_at")
    }
    session.add(CertificateRow(digest="sha256:other", supersedes=None, **values))


def change(statement: Any) -> Plant:
    return lambda session, blobs, trained: session.execute(statement.execution_options(synchronize_session=False))


PLANTS: dict[str, tuple[str, Plant]] = {
    "a job of a request is gone from its end": (
        "open-requests",
        lambda s, b, t: (
            s.execute(update(DeletionRequest).values(fulfilled_at=None)),
            s.execute(update(OutcomeRow).values(state="batched")),
        ),
    ),
    "published, and no purge": (
        "open-requests",
        lambda s, b, t: (
            s.execute(update(DeletionRequest).values(fulfilled_at=None)),
            s.execute(update(OutcomeRow).values(state="published")),
        ),
    ),
    "attention without a reason": (
        "open-requests",
        lambda s, b, t: (
            s.execute(update(DeletionRequest).values(fulfilled_at=None)),
            s.execute(update(OutcomeRow).values(state="attention", reason=None)),
        ),
    ),
    "fulfilled, not purged": ("fulfilled-requests", change(update(OutcomeRow).values(state="published"))),
    "a receipt is owed": ("fulfilled-requests", change(update(Receipt).values(done_at=None, due_at=None))),
    "fulfilled twice": (
        "fulfilled-requests",
        lambda s, b, t: s.execute(
            update(AuditEvent).where(AuditEvent.kind == "request.published").values(kind="request.fulfilled")
        ),
    ),
    "fulfilled, and no event": (
        "fulfilled-requests",
        change(delete(AuditEvent).where(AuditEvent.kind == "request.fulfilled")),
    ),
    "one receipt twice": (
        "receipts",
        lambda s, b, t: s.execute(
            update(Receipt).where(Receipt.subject == "reference-columns").values(digest="sha256:same")
        ),
    ),
    "two certificates": ("certificates", a_second_certificate),
    "no certificate": ("certificates", change(delete(CertificateRow))),
    "no negative report": ("negative-reports", change(delete(NegativeReport))),
    "two current versions": ("current-versions", change(update(Version).values(state="current"))),
    "no current version": ("current-versions", change(update(Model).values(current_version=None))),
    "a parent is gone": ("current-versions", change(update(Version).where(Version.number == 2).values(parent=77))),
    "an alias of nothing": ("aliases", change(update(Alias).values(version=77))),
    "an alias of a purged version": ("aliases", change(update(Version).values(state="purged"))),
    "current, trained on the erased": ("unlearned-versions", trained_on_all),
    "lost bytes": ("blobs-held", a_blob_is_lost),
    "damaged bytes": ("blobs-held", a_blob_is_damaged),
    "bytes that come back": ("blobs-removed", removed_bytes_come_back),
    "an id that comes back": (
        "erased-samples",
        lambda s, b, t: setattr(erased_sample(s), "sample_id", "digit-again"),
    ),
    "a subject that stays": ("erased-samples", lambda s, b, t: setattr(erased_sample(s), "subject", "eve")),
    "an id too many": (
        "erased-samples",
        lambda s, b, t: s.execute(update(Sample).where(Sample.sample_id == t.ids[20]).values(sample_id="erased:x")),
    ),
    "pixels that stay": ("erased-samples", pixels_are_left),
    "ended and leased": ("job-leases", lambda s, b, t: setattr(ended_job(s), "owner", "w")),
    "running and not leased": ("job-leases", lambda s, b, t: setattr(ended_job(s), "state", "running")),
    "ended at no time": ("job-leases", lambda s, b, t: setattr(ended_job(s), "finished_at", None)),
    "ended and queued": ("job-leases", lambda s, b, t: setattr(ended_job(s), "state", "queued")),
    "too many attempts": ("job-leases", lambda s, b, t: setattr(ended_job(s), "attempts", 9)),
    "a part is left": (
        "job-leases",
        lambda s, b, t: s.execute(
            update(Job).where(Job.parent_id.is_not(None)).values(state="queued", finished_at=None)
        ),
    ),
    "an event is lost": ("job-events", change(delete(JobEvent).where(JobEvent.number % 2 == 0))),
    "a message is stuck": (
        "outbox",
        lambda s, b, t: s.add(Outbox(topic="blob", key="sha256:x", created_at=db.now(s) - timedelta(hours=1))),
    ),
    "a hint of nothing": ("outbox", lambda s, b, t: s.add(Outbox(topic="hint", key="job_x", created_at=db.now(s)))),
    "an entry is gone": ("log-trees", change(delete(AuditEvent).where(AuditEvent.leaf == 2))),
    "an entry is changed": ("log-trees", change(update(AuditEvent).where(AuditEvent.leaf == 2).values(object_id="x"))),
    "a request was counted twice": ("tallies", counted_twice),
    "a head is old": ("log-trees", change(update(LogHead).values(size=1))),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(lived: Trained, name: str) -> None:
    rule, plant = PLANTS[name]
    database = lived.account.database
    with database.write() as session:
        if database.is_sqlite:
            session.execute(text("PRAGMA defer_foreign_keys=ON"))
        plant(session, open_blobs(lived.account.settings), lived)
    assert rule in {each.rule for each in violations(lived)}


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule for rule, _ in PLANTS.values()} == checker.RULES.keys()


def test_the_command_says_what_is_wrong_and_fails(lived: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    account = lived.account
    monkeypatch.setenv("LETHE_DATA_DIR", str(account.settings.data_dir))
    get_settings.cache_clear()
    good = CliRunner().invoke(cli, ["check", "--at-rest", "--json"])
    assert (good.exit_code, json.loads(good.stdout)) == (0, [])
    with account.database.write() as session:
        session.execute(update(Alias).values(version=77))
    bad = CliRunner().invoke(cli, ["check"])
    assert bad.exit_code == 1
    assert "its alias production names version 77, which is not there" in " ".join(bad.stdout.split())
