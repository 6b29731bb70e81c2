"""The audit against simulated worlds in which the truth is known: `make bench ARGS=audit_calibration`.

For each situation, exact retrains and untouched models are judged by the service's own rule: how often the first fail
and the second do not, how often the interval of d covers 0, and for how many there is a null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalog import RmiaParams
from engine.audits import measure
from experiments.worlds import World

RUNS = 200
PARAMS = RmiaParams()


def audit_calibration() -> dict[str, object]:
    """200 exact retrains and as many untouched models for each situation."""
    figures: dict[str, object] = {}
    worst = 0.0
    for name, runs in _situations():
        verdicts, untouched, inside, spans = Counter[str](), Counter[str](), [], []
        for world, random, forget, options in runs:
            pool = world.references(random, 8)
            retrained, parent = (world.log_odds(random, world.without(each)) for each in (forget, forget[:0]))
            judgement = _judged(world, pool, retrained, parent, forget, random, options)
            verdicts[judgement.verdict] += 1
            if judgement.difference is not None and judgement.standard_error is not None:
                inside.append(abs(judgement.difference) <= 1.96 * judgement.standard_error)
                spans.append(judgement.standard_error)
            untouched[_judged(world, pool, parent, parent, forget, random, options).verdict] += 1
        false_fails, false_passes = verdicts["fail"] / RUNS, untouched["pass"] / RUNS
        worst = max(worst, false_fails, false_passes)
        figures[name] = (
            f"retrains fail {false_fails:.1%}, pass {verdicts['pass'] / RUNS:.0%}; untouched fail "
            f"{untouched['fail'] / RUNS:.0%}, pass {false_passes:.1%}; d has a null in {len(inside) / RUNS:.0%}, "
            f"covered {np.mean(inside) if inside else float('nan'):.1%}, "
            f"standard error {np.mean(spans) if spans else float('nan'):.4f}"
        )
    return figures | {"gate": "at most 5 % of retrains fail, of untouched models pass", "gate_passed": worst <= 0.05}


Situation = Iterator[tuple[World, np.random.Generator, NDArray[np.int64], dict[str, Any]]]


def _situations() -> Iterator[tuple[str, Situation]]:
    for size in (50, 350, 2000):
        for times in (1, 2):
            yield f"{size} at random, memorised x{times}", _random(size, times)
    yield "150 at random, five retrains", _random(150, 1, retrains=5)
    for alike in (0.0, 0.3, 0.8):
        for people, most in ((20, 10), (100, 1), (100, 20), (500, 8)):
            yield f"{people} people of 1 to {most}, alike {alike}", _people(people, most, alike)
    yield "20 people, one of whom has half", _people(20, 10, 0.3, skew=True)


def _random(size: int, times: float, retrains: int = 0) -> Situation:
    random = np.random.default_rng(1)
    for _ in range(RUNS):
        world = World.draw(random, 2600, 1500, gap=1.0)
        forget = np.sort(random.choice(world.train, size, replace=False))
        gap = world.gap.copy()
        gap[forget] *= times
        yield replace(world, gap=gap), random, forget, {"retrains": retrains}


def _people(people: int, most: int, alike: float, skew: bool = False) -> Situation:
    random = np.random.default_rng(1)
    trained, held = max(2 * people, 100), max(people, 100)
    for _ in range(RUNS):
        sizes = random.integers(1, most + 1, trained + held)
        if skew:
            sizes[0] = sizes[1:people].sum()
        world = World.of_people(random, sizes, trained, gap=1.5, alike=alike)
        assert world.people is not None
        yield world, random, np.flatnonzero(world.people < people), {"people": world.people}


def _judged(world, pool, candidate, parent, forget, random, options) -> Any:  # type: ignore[no-untyped-def]
    more: dict[str, Any] = {}
    if "people" in options:
        more = {"grouped": True, "subjects": options["people"]}
    elif count := options["retrains"]:
        others = [world.logits(world.log_odds(random, world.without(forget))) for _ in range(count)]
        more = {"grouped": True, "retrained_logits": others}
    remain = np.setdiff1d(np.arange(world.train), forget)
    logits = world.logits(candidate), world.logits(parent)
    return measure.audit(*logits, world.labels, forget, remain, world.holdout, pool, PARAMS, **more)[3]
