"""What each kind of audit would cost, and which margin it could pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.rules.audit_plan import Situation, least_margin, plan
from engine.audits.rule import Estimate, passes

HERE = Situation(samples=350, controls=2000, margin=0.1, training=600.0, signal=0.3)


def offers(here: Situation) -> dict[str, object]:
    return {offer.kind: offer for offer in plan(here)}


@pytest.mark.parametrize(("forgotten", "controls"), [(350, 2000), (90, 900), (1500, 1500)])
def test_at_the_smallest_margin_an_exact_retrain_passes_four_times_in_five(forgotten: int, controls: int) -> None:
    margin = least_margin(forgotten, controls)
    assert margin is not None
    error = ((forgotten + controls + 1) / (12 * forgotten * controls)) ** 0.5
    drawn = np.random.default_rng(0).normal(0, error, 4000)
    assert np.mean([passes(Estimate(each, error), margin) for each in drawn]) == pytest.approx(0.8, abs=0.03)


def test_prices_are_measured_seconds_of_a_training_times_their_number() -> None:
    prices = {kind: (offer.trainings, offer.seconds) for kind, offer in offers(HERE).items()}
    assert prices == {
        "canaries": (0, 0.0),
        "own-references": (0, 0.0),
        "two-references": (1, 600.0),
        "folds": (4, 2400.0),
        "pool": (8, 4800.0),
        "retrained-null": (5, 3000.0),
    }
    unknown = offers(replace(HERE, training=None))
    assert (unknown["two-references"].seconds, unknown["own-references"].seconds) == (None, 0.0)


def test_what_is_possible_and_what_it_lacks() -> None:
    found = offers(HERE)
    assert found["two-references"].possible
    assert found["two-references"].smallest_margin < found["retrained-null"].smallest_margin
    assert "coin" in found["canaries"].lacks[0]
    assert offers(replace(HERE, canaries=(900, 900), assigned=True))["canaries"].possible
    assert offers(replace(HERE, canaries=(900, 900), references=2))["canaries"].possible
    few = offers(replace(HERE, canaries=(9, 9), assigned=True))["canaries"]
    assert "9 beside 9 could pass a margin of 0." in few.lacks[0]
    assert few.smallest_margin > 0.4
    none = offers(replace(HERE, canaries=(2, 2), assigned=True))["canaries"]
    assert (none.smallest_margin, none.possible) == (None, False)
    assert "could pass no margin" in none.lacks[0]
    assert "a holdout" in offers(replace(HERE, controls=0))["pool"].lacks[0]
    assert "does not hold" in offers(replace(HERE, held=False))["pool"].lacks[0]
    assert offers(replace(HERE, held=False))["own-references"].possible
    assert "a signal" in offers(replace(HERE, signal=0.08))["pool"].lacks[0]
    assert offers(replace(HERE, signal=None))["pool"].possible


def test_of_people_the_margin_lies_between_samples_and_people() -> None:
    here = replace(HERE, people=35, control_people=40)
    found = offers(here)["pool"]
    assert found.possible
    assert found.smallest_margin < 0.1 < found.smallest_margin_alike
    assert offers(here)["retrained-null"].smallest_margin_alike is None
    lonely = offers(replace(here, people=1))
    assert "5 people on either side: there are 1 and 40" in lonely["pool"].lacks
    assert "5 people on either side: there are 1 and 40" not in lonely["retrained-null"].lacks
