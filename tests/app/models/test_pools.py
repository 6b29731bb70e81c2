"""A pool that has lost a tenth of its samples is built anew, once, while a model needs it."""

from __future__ import annotations

import threading
from datetime import timedelta

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
from tests.trained import Trained


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
