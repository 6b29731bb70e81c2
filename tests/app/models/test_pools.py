"""A pool that has lost a tenth of its samples is built anew, once, while a model needs it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from app.blobs.open import open_blobs
from app.core import db
from app.core.positions import members
from app.core.tables import Dataset, Job, Model, Receipt, ReferenceRow
from app.deletions import retention
from app.models import pools
from app.models import records as models
from engine import references
from tests.support import Account
from tests.trained import Trained
from worker.jobs import references as building


def in_use(trained: Trained) -> pools.Pool:
    with trained.account.database.read() as session:
        family = models.family(session.get_one(Model, trained.model))
        return pools.in_use(session, [family])[family]


def queued(trained: Trained) -> list[Job]:
    with trained.account.database.read() as session:
        return session.query(Job).filter(Job.kind == "references", Job.state == "queued").all()


def forget_share(trained: Trained, share: float) -> None:
    """Erase so many of all samples, holdout among them counted."""
    total = trained.account.get(f"/v1/datasets/{trained.dataset}")["samples"]
    assert trained.forget(trained.ids[: int(share * total)])["status"] == "fulfilled"


@pytest.mark.validation
def test_a_tenth_is_not_yet_stale(trained: Trained) -> None:
    forget_share(trained, 0.095)
    assert pools.rebuild_stale(trained.account.database) == 0


def test_a_stale_pool_is_built_anew_once_and_audits_use_the_new_one(trained: Trained) -> None:
    old = in_use(trained)
    forget_share(trained, 0.11)
    database = trained.account.database
    assert pools.rebuild_stale(database) == 1
    assert pools.rebuild_stale(database) == 0
    (job,) = queued(trained)
    assert (job.params["count"], job.params["replaces"]) == (old.size, old.name)
    assert in_use(trained).name == old.name, "until the new one is complete"
    trained.account.work()
    new = in_use(trained)
    assert new.name == trained.account.get(f"/v1/jobs/{job.id}")["result"]["pool"] != old.name
    assert (new.size, new.erased_before > 0) == (old.size, True)
    assert pools.rebuild_stale(database) == 0
    with database.read() as session:
        assert session.query(ReferenceRow).filter(ReferenceRow.pool == old.name).count() == old.size, "till its date"
    unlearned = trained.forget(trained.ids[-3:])
    version = unlearned["outcomes"][0]["version"]
    report = trained.account.get(f"{trained.where}/versions/{version}/audit")["report"]
    assert report["references"]["models"] == new.size


def test_two_sweepers_queue_one_job(trained: Trained) -> None:
    forget_share(trained, 0.11)
    gate, counts = threading.Barrier(4), []

    def sweep() -> None:
        gate.wait()
        counts.append(pools.rebuild_stale(trained.account.database))

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 0, 0, 1]
    assert len(queued(trained)) == 1


def test_a_pool_that_no_model_needs_is_left_to_its_date(trained: Trained) -> None:
    forget_share(trained, 0.11)
    trained.account.post(f"{trained.where}:purge", {})
    assert pools.rebuild_stale(trained.account.database) == 0


@pytest.mark.validation
def test_a_larger_pool_is_used_first_and_of_equal_ones_the_fresher(trained: Trained) -> None:
    account = trained.account
    account.post(f"{trained.where}:references", {"count": 6, "seed": 1})
    account.work()
    assert in_use(trained).size == 6
    assert in_use(trained).erased_before == 0


@pytest.mark.parametrize("erased", [0, 3])
@pytest.mark.validation
def test_the_share_counts_what_went_since(erased: int, trained: Trained) -> None:
    pool = pools.Pool("p", "f", trained.dataset, 4, erased, ())
    if erased:
        trained.forget(trained.ids[:erased])
    with trained.account.database.read() as session:
        from app.core.tables import Dataset

        assert pools.share_erased(pool, session.get_one(Dataset, trained.dataset)) == 0.0


def test_a_reference_that_never_saw_the_samples_keeps_its_columns(trained: Trained) -> None:
    account = trained.account
    trained.forget(trained.ids[:1])
    with account.database.write() as session:
        gone = session.get_one(Dataset, trained.dataset)
        [position] = members(gone.erased, gone.sample_count)
        soon = db.now(session) + timedelta(days=1)
        session.execute(update(Receipt).where(Receipt.subject == "reference-pool").values(due_at=soon))
    old = in_use(trained)
    assert pools.rebuild_stale(account.database) == 1
    account.work()
    new = in_use(trained)
    assert new.name != old.name
    blobs = open_blobs(account.settings)
    was, now = ([references.from_file(blobs.fetch(each)) for each in pool.digests] for pool in (old, new))
    saw = [bool(each.membership[position]) for each in was]
    assert sorted(saw) == [False, False, True, True]
    assert [a == b for a, b in zip(old.digests, new.digests, strict=True)] == [not each for each in saw]
    assert not any(each.membership[position] for each in now)
    others = [np.delete(each.membership, position) for each in now]
    assert (np.sum(others, axis=0) == 2).all(), "each sample is in half of the models, as before"
    with account.database.write() as session:
        session.execute(update(Receipt).where(Receipt.subject == "reference-pool").values(due_at=db.now(session)))
    assert retention.retire_due_pools(account.database) == 4
    account.work()
    assert in_use(trained).digests == new.digests
    for digest in new.digests:
        blobs.fetch(digest)


def due(account: Account, days: float) -> None:
    with account.database.write() as session:
        when = db.now(session) + timedelta(days=days)
        session.execute(update(Receipt).where(Receipt.subject == "reference-pool").values(due_at=when))


def memberships(account: Account, pool: pools.Pool) -> np.ndarray:
    blobs = open_blobs(account.settings)
    return np.stack([references.from_file(blobs.fetch(each)).membership for each in pool.digests])


def test_a_pool_that_goes_while_its_successor_is_built_leaves_its_draw(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen: models that were kept had the old draw and the others another one, so that samples were in any number
    of models. The successor of the successor keeps the draw, too."""
    account = trained.account
    old = in_use(trained)
    before = memberships(account, old)
    for turn in (1, 2):
        trained.forget(trained.ids[turn : turn + 1])
        due(account, days=1)
        assert pools.rebuild_stale(account.database) == 1
        kept, keep = list[Any](), building._keep

        def first_ones(*given: Any, kept: list[Any] = kept, keep: Any = keep) -> None:
            keep(*given)
            kept.append(given)
            if len(kept) == 2:
                due(account, days=0)
                assert retention.retire_due_pools(account.database) > 0

        with monkeypatch.context() as patch:
            patch.setattr(building, "_keep", first_ones)
            account.work()
        assert len(kept) >= 4
        new = in_use(trained)
        assert new.name != old.name
        now = memberships(account, new)
        with account.database.read() as session:
            gone = session.get_one(Dataset, trained.dataset)
            erased = members(gone.erased, gone.sample_count)
        before[:, erased] = False
        assert (now == before).all()
        old = new


def test_a_pool_that_is_due_at_once_has_its_successor_queued_first(trained: Trained) -> None:
    """As seen: whichever sweep came first; a pool that went before it was seen was never built again."""
    account = trained.account
    trained.forget(trained.ids[:1])
    old = in_use(trained)
    due(account, days=0)
    assert retention.retire_due_pools(account.database) == old.size
    [job] = queued(trained)
    assert job.params["replaces"] == old.name
    account.work()
    assert in_use(trained).size == old.size
    assert (retention.retire_due_pools(account.database), pools.rebuild_stale(account.database)) == (0, 0)


def test_a_successor_that_failed_is_tried_again_and_not_for_ever(trained: Trained) -> None:
    """As seen: a pool whose successor failed was never built again, and at its date audits had none."""
    account = trained.account
    trained.forget(trained.ids[:1])
    old = in_use(trained)
    due(account, days=0)
    assert retention.retire_due_pools(account.database) == old.size
    for turn in range(1, pools.TRIES + 2):
        jobs = queued(trained)
        assert len(jobs) == (turn <= pools.TRIES)
        with account.database.write() as session:
            for job in jobs:
                session.get_one(Job, job.id).state = "failed"
        assert pools.rebuild_stale(account.database) == (turn < pools.TRIES)
    assert account.post(f"/v1/jobs/{failed(trained)[0].id}:retry", {})
    account.work()
    assert in_use(trained).size == old.size
    assert pools.rebuild_stale(account.database) == 0


def failed(trained: Trained) -> list[Job]:
    with trained.account.database.read() as session:
        return session.query(Job).filter(Job.kind == "references", Job.state == "failed").all()
