"""Canaries: forgotten along with real samples, never erased, and measured at any time."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from app import canaries
from app.positions import members
from app.tables import AuditRow, Dataset, Model, Sample, Version
from tests.integration.conftest import Trained
from tests.integration.helpers import is_problem
from tests.integration.test_audits import audit
from tests.support import QUICK_POLICY


@pytest.fixture
def planted(trained: Trained) -> Trained:
    """Every third sample of the train split and every second held-out one is a canary; 20 go with each job."""
    with trained.account.database.write() as session:
        for held, step in ((False, 3), (True, 2)):
            query = select(Sample.position).where(Sample.holdout == held).order_by(Sample.position)
            chosen = session.scalars(query).all()[::step]
            session.execute(update(Sample).where(Sample.position.in_(chosen)).values(subject=canaries.SUBJECT))
    set_policy(trained, canaries=20)
    return trained


def set_policy(trained: Trained, **parts: Any) -> None:
    answer = trained.account.http.put(f"{trained.where}/policy", json={**QUICK_POLICY, **parts})
    assert answer.status_code == 200, answer.text


def plain(planted: Trained) -> list[str]:
    """Ids of the train split that are no canaries."""
    return [name for number, name in enumerate(planted.ids) if number % 3]


def trained_on(planted: Trained, number: int) -> set[int]:
    with planted.account.database.read() as session:
        row = session.scalars(select(Version).where(Version.model_id == planted.model, Version.number == number)).one()
        return set(members(row.trained_on, len(row.trained_on) * 8).tolist())


def of(planted: Trained, where: Any) -> set[int]:
    with planted.account.database.read() as session:
        return set(session.scalars(select(Sample.position).where(where)))


def test_each_job_forgets_some_along_and_erases_none(planted: Trained) -> None:
    every = of(planted, Sample.subject == canaries.SUBJECT)
    before = trained_on(planted, 1)
    for number, name in ((2, plain(planted)[0]), (3, plain(planted)[1])):
        request = planted.forget([name])
        assert request["status"] == "fulfilled"
        after = trained_on(planted, number)
        gone = before - after
        assert len(gone) == 21
        assert len(gone & every) == 20
        before = after
    assert of(planted, Sample.subject == canaries.SUBJECT) == every
    dataset = planted.account.get(f"/v1/datasets/{planted.dataset}")
    assert dataset["erased_samples"] == 2
    jobs = planted.account.get("/v1/jobs", kind="unlearn")["items"]
    assert [job["result"]["canaries"] for job in jobs] == [20, 20]
    report = planted.account.get(f"{planted.where}/versions/3/audit")["report"]
    assert (report["forget_samples"], report["canaries"], report["of"]) == (1, 20, "forget-set")
    assert report["retain_samples"] == len(after)
    adversarial = report["adversarial"]
    assert adversarial["total"] == 21
    page = planted.account.http.get(f"{planted.where}/versions/3/audit", headers={"Accept": "text/html"}).text
    assert "forgot 20 canary samples along" in page


def test_all_that_were_forgotten_so_far_are_measured_against_those_held_out(planted: Trained) -> None:
    for name in plain(planted)[:2]:
        planted.forget([name])
    every = of(planted, Sample.subject == canaries.SUBJECT)
    held_out = every & of(planted, Sample.holdout)
    report = audit(planted, canaries=True)
    assert (report["of"], report["version"], report["canaries"]) == ("canaries", 3, 0)
    assert (report["forget_samples"], report["test_samples"]) == (40, len(held_out))
    assert report["candidate"]["ft_auc"]["positives"] == 40
    assert report["candidate"]["ft_auc"]["negatives"] == len(held_out)
    known = len(every & trained_on(planted, 3))
    assert report["control"]["ft_auc"]["positives"] == known == len(every - held_out) - 40
    assert (report["parent"], report["parent_checkpoint"], report["gate"]) == (None, None, None)
    assert audit(planted, canaries=True, version=2)["forget_samples"] == 20
    page = planted.account.http.get(f"{planted.where}/versions/3/audit", headers={"Accept": "text/html"}).text
    assert "canaries that this version still knows" not in page  # it shows what the version was published with
    with planted.account.database.read() as session:
        newest = session.scalars(select(AuditRow.id).where(AuditRow.version == 3).order_by(AuditRow.id.desc())).first()
    where = f"{planted.where}/versions/3/audits/{newest}"
    page = planted.account.http.get(where, headers={"Accept": "text/html"}).text
    assert "40 forgotten canary samples" in page
    assert "the canaries that this version still knows" in page


def test_without_held_out_canaries_the_whole_holdout_is_their_control(planted: Trained) -> None:
    with planted.account.database.write() as session:
        session.execute(update(Sample).where(Sample.holdout).values(subject=None))
    planted.forget(plain(planted)[:1])
    assert audit(planted, canaries=True)["test_samples"] == len(of(planted, Sample.holdout))


def test_a_deletion_of_canaries_erases_them_like_any_sample(planted: Trained) -> None:
    planted.forget(plain(planted)[:1])
    asked = {"dataset": planted.dataset, "subjects": [canaries.SUBJECT]}
    made = planted.account.post("/v1/deletion-requests", asked, 202)
    planted.account.work()
    assert planted.request(made)["status"] == "fulfilled"
    assert of(planted, Sample.subject == canaries.SUBJECT) == set()
    is_problem(planted.account.http.post(f"{planted.where}:audit", json={"canaries": True}), 409, "no-canaries")


def test_a_draw_is_frozen_random_and_leaves_out_what_is_requested(planted: Trained) -> None:
    with planted.account.database.write() as session:
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        parent = session.scalars(select(Version)).one()
        every = canaries.of_version(session, dataset, parent).known
        first = canaries.draw(session, dataset, model, parent, 20)
        assert canaries.draw(session, dataset, model, parent, 20).tolist() == first.tolist()
        assert set(first) < set(every)
        assert first.tolist() != every[:20].tolist()
        assert canaries.draw(session, dataset, model, parent, 10_000).tolist() == every.tolist()
        assert not len(canaries.draw(session, dataset, model, parent, 0))
    planted.delete(planted.ids[::3][:50])  # all of them canaries: asked for, not yet carried out
    with planted.account.database.read() as session:
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        left = canaries.draw(session, dataset, model, session.scalars(select(Version)).one(), 10_000)
        assert left.tolist() == every[50:].tolist()


def test_a_climb_keeps_the_draw(planted: Trained) -> None:
    """The policy's method loses too much accuracy by its rate; the exact retrain after it forgets the same."""
    wild = {"name": "amun", "params": {"epochs": 2, "learning_rate": 5.0, "batch_size": 64}}
    set_policy(planted, canaries=20, method=wild, utility_floor=0.0)
    request = planted.forget(plain(planted)[:1])
    assert request["status"] == "fulfilled"
    first, last = reversed(planted.account.get("/v1/jobs", kind="unlearn")["items"])
    assert (first["state"], last["state"]) == ("rejected", "succeeded")
    assert len(trained_on(planted, 1) - trained_on(planted, 2)) == 21
    with planted.account.database.read() as session:
        parent = session.scalars(select(Version).where(Version.number == 1)).one()
        dataset, model = session.get_one(Dataset, planted.dataset), session.get_one(Model, planted.model)
        drawn = set(canaries.draw(session, dataset, model, parent, 20).tolist())
    assert drawn < trained_on(planted, 1) - trained_on(planted, 2)


def test_what_cannot_be_measured_is_refused_with_words(planted: Trained) -> None:
    is_problem(planted.account.http.post(f"{planted.where}:audit", json={"canaries": True}), 409, "no-canaries")
    for other in ({"sample_ids": planted.ids[:1]}, {"grouped": True}):
        answer = planted.account.http.post(f"{planted.where}:audit", json={"canaries": True, **other})
        is_problem(answer, 422, "schema")
