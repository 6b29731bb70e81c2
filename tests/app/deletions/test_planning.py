"""The plan of audits over the API: what is known of a model before one is chosen."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from app.core.tables import Sample
from tests.helpers import is_problem
from tests.trained import Trained
from tests.worker.test_audits import audit

SQLITE = pytest.mark.parametrize("trained", ["sqlite"], indirect=True)


def test_the_plan_knows_controls_prices_and_the_versions_own_signal(trained: Trained) -> None:
    account = trained.account
    found = account.get(f"{trained.where}:audit-plan")
    assert (found["samples"], found["people"], found["margin"]) == (1, None, 0.05)
    assert found["controls"] == len(
        account.get(f"/v1/datasets/{trained.dataset}/samples", split="holdout", page_size=1000)["items"]
    )
    assert found["training_seconds"] > 0
    assert found["signal"] is None, "nothing was measured yet"
    kinds = {offer["kind"]: offer for offer in found["offers"]}
    assert kinds["pool"]["seconds"] == pytest.approx(8 * found["training_seconds"])
    assert not kinds["pool"]["possible"]
    audit(trained)
    seen = account.get(f"{trained.where}:audit-plan", samples=300, margin=0.49)
    measured = account.get(f"{trained.where}/versions/1/audit")["report"]["candidate"]["rt_auc"]["value"]
    assert seen["signal"] == pytest.approx(measured - 0.5)
    assert "a signal" in str(seen["offers"][-1]["lacks"])
    is_problem(account.http.get(f"{trained.where}:audit-plan?margin=2"), 422, "schema")


@SQLITE
def test_it_counts_people_canaries_and_the_open_batch(trained: Trained) -> None:
    account = trained.account
    policy = {"when": {"mode": "batch", "max_requests": 9}}
    assert account.http.put(f"{trained.where}/policy", json=policy).status_code == 200
    with account.database.write() as session:
        held = session.scalars(select(Sample.position).where(Sample.holdout).order_by(Sample.position)).all()
        for number, position in enumerate(held[:60]):
            subject = "lethe:canary" if number < 20 else f"held-{number % 8}"
            session.execute(update(Sample).where(Sample.position == position).values(subject=subject))
    trained.delete(trained.ids[:7])
    found = account.get(f"{trained.where}:audit-plan", people=3)
    assert (found["samples"], found["control_people"]) == (7, 8)
    assert (found["canaries_trained"], found["canaries_held_out"]) == (0, 20)
    assert found["controls"] == len(held) - 20
    assert "3 and 8" in str(found["offers"])
