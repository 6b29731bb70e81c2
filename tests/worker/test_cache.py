"""What a worker keeps loaded between jobs, and that it keeps nothing that was erased."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from app.blobs import usage
from app.core import db
from app.core.tables import Dataset, Version
from app.deletions import retention
from tests.support import eventually
from tests.trained import Trained
from worker.runtime import cache
from worker.runtime.cache import Cache
from worker.stages import loaded


@pytest.fixture
def keeping(trained: Trained) -> Any:
    found = Cache(trained.account.database, 1000)
    yield found
    found.close()


def there(trained: Trained) -> list[str]:
    """Digests that rows point at."""
    with trained.account.database.read() as session:
        versions = [row.digest for row in session.query(Version)]
        return versions + [str(row.images) for row in session.query(Dataset)]


def made(keeping: Cache, kind: str, *digests: str, owner: str = "", size: int = 100) -> bool:
    """Whether it had to be made."""
    calls: list[int] = []

    def make() -> object:
        calls.append(1)
        return object()

    keeping.get(kind, digests, make, lambda _: size, owner)
    return bool(calls)


@pytest.mark.validation
def test_what_was_made_once_is_kept_and_whose_it_is_counts(trained: Trained, keeping: Cache) -> None:
    digest = there(trained)[0]
    assert made(keeping, "checkpoint", digest)
    assert not made(keeping, "checkpoint", digest)
    assert made(keeping, "samples", digest)
    assert made(keeping, "checkpoint", digest, owner="another architecture")


@pytest.mark.validation
def test_of_each_kind_so_many_and_the_longest_unused_goes_first(trained: Trained, keeping: Cache) -> None:
    digest = there(trained)[0]
    for owner in "abcd":
        assert made(keeping, "checkpoint", digest, owner=owner)
    assert not made(keeping, "checkpoint", digest, owner="a")
    assert made(keeping, "checkpoint", digest, owner="e")
    assert not made(keeping, "checkpoint", digest, owner="a")
    assert made(keeping, "checkpoint", digest, owner="b")


@pytest.mark.validation
def test_never_more_bytes_than_allowed(trained: Trained, keeping: Cache) -> None:
    digest = there(trained)[0]
    assert made(keeping, "checkpoint", digest, size=900)
    assert made(keeping, "samples", digest, size=200)
    assert not made(keeping, "samples", digest, size=200)
    assert made(keeping, "checkpoint", digest, size=900), "it had to go for the samples"
    assert made(keeping, "pool", digest, size=1001)
    assert made(keeping, "pool", digest, size=1001), "too large to be kept at all"
    assert keeping._kept == {}


@pytest.mark.validation
def test_what_no_row_points_at_is_not_kept(trained: Trained, keeping: Cache) -> None:
    digest, gone = there(trained)[0], "sha256:" + 64 * "0"
    assert made(keeping, "checkpoint", gone)
    assert made(keeping, "checkpoint", gone), "looked at before it was used"
    made(keeping, "checkpoint", digest)
    assert made(keeping, "pool", digest, gone)
    keeping.drop_erased()
    assert [key[0] for key in keeping._kept] == ["checkpoint"], "a pool of which one part is gone goes as a whole"


def test_an_idle_worker_forgets_a_purged_version(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SECONDS_BETWEEN_CHECKS", 0.05)
    keeping = Cache(trained.account.database, 1000)
    digest = there(trained)[0]
    made(keeping, "checkpoint", digest)
    with trained.account.database.write() as session:
        session.query(Version).update({"state": "superseded", "purge_after": db.now(session)})
    assert keeping._kept
    assert retention.purge_due_versions(trained.account.database, trained.account.resources.blobs) == 1
    eventually(lambda: not keeping._kept, "it to be forgotten")
    keeping.close()


@pytest.mark.validation
def test_a_database_that_does_not_answer_leaves_nothing_kept(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*_: object) -> set[str]:
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(cache, "SECONDS_BETWEEN_CHECKS", 0.05)
    keeping = Cache(trained.account.database, 1000)
    made(keeping, "checkpoint", there(trained)[0])
    monkeypatch.setattr(usage, "used", fail)
    eventually(lambda: not keeping._kept, "it to be forgotten")
    keeping.close()


# -- through jobs ----------------------------------------------------------------------------------


def test_a_second_job_loads_nothing_again_and_computes_the_same(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = trained.account
    loads: list[str] = []
    fetch = account.resources.blobs.fetch

    def counted(digest: str) -> Any:
        loads.append(digest)
        return fetch(digest)

    monkeypatch.setattr(account.resources.blobs, "fetch", counted)
    account.post(f"{trained.where}:precompute", {})
    account.work()
    assert len(loads) == len(set(loads)) > 0
    cold = list(loads)
    loads.clear()
    account.post(f"{trained.where}:precompute", {})
    account.work()
    assert set(loads).isdisjoint(cold)
    with account.database.read() as session:
        from app.core.tables import AdversarialRow

        first, second = session.query(AdversarialRow).order_by(AdversarialRow.id)
        assert first.digest == second.digest


@pytest.mark.validation
def test_a_restored_model_may_be_changed(trained: Trained) -> None:
    """Methods edit what they are given; what is kept must stay as it was."""
    from app import jobs

    account = trained.account
    account.post(f"{trained.where}:precompute", {})
    claim = jobs.claim(account.database, "w", 60.0)
    assert claim is not None
    model = loaded.LoadedModel.load(account.resources, claim)
    digest = there(trained)[0]
    first = model.restore(digest)
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    again = model.restore(digest)
    assert all(torch.equal(before[name], tensor) for name, tensor in again.state_dict().items())
    assert loaded.LoadedModel.load(account.resources, claim).samples is model.samples


@pytest.mark.validation
def test_erased_samples_are_in_nothing_that_is_kept(trained: Trained) -> None:
    """The same worker that has the samples loaded erases them: what it keeps afterwards holds zeros and NaN."""
    account = trained.account
    before = there(trained)[-1]
    account.post(f"{trained.where}:precompute", {})
    account.work()
    assert any(before in key for key in account.resources.cache._kept)
    assert trained.forget(trained.ids[:5])["status"] == "fulfilled"
    account.resources.cache.drop_erased()
    assert not any(before in key for key in account.resources.cache._kept)
    with account.database.read() as session:
        dataset = session.query(Dataset).one()
        from app.core.positions import members

        erased = members(dataset.erased, dataset.sample_count)
    assert len(erased) == 5
    account.post(f"{trained.where}:precompute", {})
    account.work()
    (samples,) = [kept.value.samples for key, kept in account.resources.cache._kept.items() if key[0] == "samples"]
    assert not samples.images[torch.from_numpy(np.asarray(erased))].any()
