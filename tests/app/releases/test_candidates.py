"""Production is not replaced by accident: candidates, the blessed version, and deleting what nobody needs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from app.core.tables import Model, Version
from app.deletions import retention
from tests.helpers import blobs, is_problem
from tests.support import QUICK_POLICY, Document
from tests.trained import Trained
from worker.stages.auditing import Auditor


def train(trained: Trained, **body: Any) -> Document:
    job = trained.account.post(f"{trained.where}:train", {"seed": 9, **body})["id"]
    trained.account.work()
    return trained.account.get(f"/v1/jobs/{job}")


def version(trained: Trained, number: int) -> Document:
    return trained.account.get(f"{trained.where}/versions/{number}")


def current(trained: Trained) -> tuple[int, int]:
    found = trained.account.get(trained.where)
    return found["current_version"], found["blessed_version"]


def test_training_beside_a_current_version_makes_a_candidate_that_is_promoted_by_hand(trained: Trained) -> None:
    assert current(trained) == (1, 1)
    assert train(trained)["result"]["version"] == 2
    assert (version(trained, 2)["state"], version(trained, 2)["parent"]) == ("candidate", 1)
    assert current(trained) == (1, 1)
    trained.account.post(f"{trained.where}/versions/2:promote")
    assert current(trained) == (2, 2)
    assert version(trained, 1)["state"] == "superseded"


@pytest.mark.validation
def test_training_takes_its_place_where_that_is_asked_for(trained: Trained) -> None:
    train(trained, promote=True)
    assert current(trained) == (2, 2)
    body = {"promote": True, "compare_only": True, "exclude_request": "del_" + "0" * 26}
    is_problem(trained.account.http.post(f"{trained.where}:train", json=body), 422, "comparison-incomplete")


@pytest.mark.validation
def test_a_candidate_that_holds_a_deleted_sample_goes_with_it(trained: Trained) -> None:
    train(trained)
    digest = version(trained, 2)["digest"]
    made = trained.forget(trained.ids[:2])
    is_problem(trained.account.http.post(f"{trained.where}/versions/2:promote"), 409, "contains-erased")
    assert digest in {receipt["digest"] for receipt in made["receipts"]}
    assert current(trained) == (3, 1), "an unlearning blesses nothing"


def test_other_candidates_are_not_promoted(trained: Trained) -> None:
    made = trained.delete(trained.ids[:2])
    body = {"exclude_request": made["id"], "compare_only": True}
    trained.account.post(f"{trained.where}:train", body)
    trained.account.work()
    listed = trained.account.get(f"{trained.where}/versions", origin="comparison")["items"]
    for each in listed:
        response = trained.account.http.post(f"{trained.where}/versions/{each['number']}:promote")
        assert response.status_code == 409


def test_the_floor_is_held_against_the_blessed_version_too(trained: Trained, monkeypatch: Any) -> None:
    """Two losses, each within the floor of its parent: 54.8, 53.8, then 49.7 with a floor of 4.5 points."""
    policy = QUICK_POLICY | {"utility_floor": 0.045}
    trained.account.http.put(f"{trained.where}/policy", json=policy)
    with trained.account.database.write() as session:
        one = {"accuracy_test": 0.999}
        session.execute(update(Version).where(Version.model_id == trained.model).values(metrics=one))
    floors: list[float | None] = []
    real = Auditor._floor.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Auditor, "_floor", property(lambda self: floors.append(real(self)) or floors[-1]))
    trained.forget(trained.ids[:2])
    assert floors[0] == 0.999 - 0.045, "of the blessed one, which is higher than the parent's"
    with trained.account.database.write() as session:
        session.execute(update(Model).where(Model.id == trained.model).values(blessed_version=None))
    floors.clear()
    trained.forget(trained.ids[2:4])
    assert floors[0] is not None
    assert floors[0] < 0.95


# -- deleting --------------------------------------------------------------------------------------


def test_a_version_that_nobody_needs_is_deleted_and_what_goes_is_said_before(trained: Trained) -> None:
    account = trained.account
    train(trained)
    where, digest = f"{trained.where}/versions/2", version(trained, 2)["digest"]
    told = account.get(f"{trained.where}:erasable", version=2)
    assert (told["versions"], told["bytes"], told["needed"]) == ([2], version(trained, 2)["size"], [])
    assert account.http.delete(where).status_code == 200
    retention.purge_due_versions(account.database, account.resources.blobs)
    assert version(trained, 2)["state"] == "purged"
    assert digest not in blobs(account.settings)
    assert "purged already" in is_problem(account.http.delete(where), 409, "version-needed")["detail"]


def test_a_version_that_somebody_needs_is_kept(trained: Trained) -> None:
    account = trained.account
    train(trained, promote=True)
    account.http.put(f"{trained.where}/aliases/old", json={"version": 1})

    def refused(number: int) -> str:
        response = account.http.delete(f"{trained.where}/versions/{number}")
        return str(is_problem(response, 409, "version-needed")["detail"])

    assert "it is the current version" in refused(2)
    assert "the alias old means it" in refused(1)
    account.http.delete(f"{trained.where}/aliases/old")
    assert account.http.delete(f"{trained.where}/versions/1").status_code == 200


def test_what_the_end_of_a_model_would_erase_is_said_before(trained: Trained) -> None:
    trained.delete(trained.ids[:2])
    told = trained.account.get(f"{trained.where}:erasable")
    assert told["versions"] == [1]
    assert told["bytes"] == version(trained, 1)["size"]
    assert (told["jobs_cancelled"], told["requests_settled"], told["needed"]) == (1, 1, [])
    assert current(trained) == (1, 1), "nothing was changed"
