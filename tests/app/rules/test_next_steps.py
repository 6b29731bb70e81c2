"""What to do next: for each reason why an audit did not pass, one or two actions that could change it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.rules.next_steps import SPAN80, Finding, next_steps, samples_for

FOUND = Finding(
    verdict="inconclusive",
    margin=0.05,
    forgotten=90,
    controls=900,
    references=16,
    null_source="exchangeable",
    leaks=True,
    training=600.0,
)


def test_a_pass_and_an_exact_retrain_need_nothing() -> None:
    assert next_steps(replace(FOUND, verdict="pass")) == []
    assert next_steps(replace(FOUND, exact=True)) == []
    assert next_steps(replace(FOUND, forgotten=0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "fail"}, ["Retrain exactly", "about 10 minutes (one training)"]),
        ({"verdict": "fail", "training": None}, ["the time of one training"]),
        (
            {"references": 0, "null_source": "none"},
            ["Train 2 reference models", "about 10 minutes (one training)", "about 80 minutes (8 trainings)"],
        ),
        ({"controls": 0}, ["Keep a holdout"]),
        ({"null_source": "none"}, ["5 exact retrains", "50 minutes"]),
        ({"null_source": "none", "by_person": True}, ["never-trained people", "5 exact retrains"]),
        ({"null_source": "none", "by_person": True, "people": 1.0}, ["at least 5 people", "canaries", "5 exact"]),
        ({"null_source": "none", "by_person": True, "people": 40.0}, ["5 exact retrains"]),
        ({}, ["about 574 forgotten samples", "here were 90"]),
        ({"margin": 0.01}, ["Keep a larger holdout"]),
        ({"forgotten": 5000}, ["more reference models"]),
        ({"fits": True, "leaks": False}, ["leaks too little"]),
        ({"fits": True}, ["Retrain exactly"]),
        ({"fits": True, "asked": 180, "uncovered": True}, ["left out by one", "nothing of 90 of 180", "10 minutes"]),
        ({"null_source": "none", "references": 2, "too_few": True}, ["Audit with `rmia`", "16 references"]),
    ],
)  # fmt: skip
def test_each_reason_has_its_action_and_its_price(change: dict[str, object], words: list[str]) -> None:
    found = next_steps(replace(FOUND, **change))  # type: ignore[arg-type]
    assert 1 <= len(found) <= 2
    for word in words:
        assert word in " ".join(found)


def test_the_samples_that_a_margin_takes_are_those_of_its_standard_error() -> None:
    for controls in (500, 1500, 100_000):
        for margin in (0.04, 0.05, 0.1):
            need = samples_for(margin, controls)
            if need is None:
                assert 1 / (12 * controls) ** 0.5 * SPAN80 >= margin
                continue
            errors = [((n + controls + 1) / (12 * n * controls)) ** 0.5 for n in (need, max(1, need - 1))]
            assert SPAN80 * errors[0] <= margin * (1 + 1e-9)
            assert SPAN80 * errors[1] > margin * (1 - 1e-3)
