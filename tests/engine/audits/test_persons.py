"""Sets requested by person: what is stated of the spread between people, against what it is in simulated draws."""

from collections.abc import Iterator

import numpy as np
import pytest

from engine.audits import Floats
from engine.audits.groups import Groups, whole
from engine.audits.nulls import indifferent, paired
from engine.audits.persons import FEWEST, People
from engine.audits.scoring import Scores
from engine.audits.verdict import Choice, estimate


def draws(
    count: int, forgotten: int, controls: int, sizes: tuple[int, int], correlation: float, seed: int = 0
) -> Iterator[tuple[Floats, People, Groups]]:
    """Scores (N,) of people alike on both sides, with samples correlated within people; the people and the groups."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        number = np.repeat(np.arange(forgotten + controls), random.integers(*sizes, forgotten + controls))
        own = random.normal(size=forgotten + controls)[number]
        scores = np.sqrt(correlation) * own + np.sqrt(1 - correlation) * random.normal(size=len(number))
        forget = np.flatnonzero(number < forgotten)
        yield scores, People.of(number), Groups(forget, forget[:0], np.flatnonzero(number >= forgotten))


@pytest.mark.parametrize(("forgotten", "controls", "sizes"), [(6, 60, (5, 6)), (60, 6, (5, 6)), (10, 40, (1, 11))])
def test_few_people_beside_many_do_not_make_the_variance_too_small(
    forgotten: int, controls: int, sizes: tuple[int, int]
) -> None:
    """The correction for their number is of the side with few: six people's squares are a sixth too small."""
    found = [
        paired(scores, [indifferent(len(scores))], whole(groups), people)
        for scores, people, groups in draws(800, forgotten, controls, sizes, 0.8)
    ]
    stated = np.mean([each.standard_error**2 for each in found])
    assert 0.9 < stated / np.var([each.difference for each in found]) < 1.3


@pytest.mark.parametrize("correlation", [0, 0.3, 0.8])
@pytest.mark.parametrize(
    ("forgotten", "controls", "sizes"), [(6, 40, (1, 2)), (8, 8, (1, 51)), (12, 60, (1, 11)), (60, 60, (1, 4))]
)
def test_the_interval_of_people_holds_and_few_fail(
    forgotten: int, controls: int, sizes: tuple[int, int], correlation: float
) -> None:
    spans = [
        estimate(
            Scores(scores, np.zeros((0, len(scores)))),
            [indifferent(len(scores))],
            whole(groups),
            Choice("people"),
            people,
        )
        for scores, people, groups in draws(200, forgotten, controls, sizes, correlation)
        if min(people.effective(groups.forget), people.effective(groups.test)) >= FEWEST
    ]
    assert None not in spans
    assert np.mean([span.low <= 0 <= span.high for span in spans if span]) > 0.92
    assert np.mean([span.low > 0.1 or span.high < -0.1 for span in spans if span]) <= 0.03
