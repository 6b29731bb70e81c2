"""`lethe calibrate`: how often each audit is wrong, by exact retrains and planted fakes.

For each kind of forget set and number of references: how often an exact retrain fails (it never should), how often a
fake passes, whether the 95 % interval of an exact retrain covers 0, and how often the audit does not decide, beside
what its stated power predicts. Models are simulated (`experiments.worlds`) or small networks (`experiments.networks`):
on the digits, and with `--data` on CIFAR-10, fine-tuned from a base. Everything follows from the seed. Stopped at any
time, it goes on with the same folder; processes may share it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.catalog import LiraParams, RmiaParams
from app.formats.audit_report import Judgement, Measurement
from engine.audits import Positions, measure
from engine.audits.rule import Estimate, power
from engine.references import ReferenceSignals
from experiments import networks
from experiments.networks import Networks
from experiments.store import Busy, Cell, OutOfTime, Result, Store, write_text
from experiments.worlds import World

SHAPES = ("random", "by person", "class-shifted", "hard tenth", "memorised")
COUNTS = (16, 4, 2, 0)
FAKES = ("untouched", "last layer only", "logits damped", "fine-tuned a little", "collapsed")
MARGIN = 0.1
RETRAINS = 6  # of a forget set: each is judged, with no references by the other five
BUDGET = 600.0


@dataclass(frozen=True)
class Part(Cell):
    """Some forget sets of one kind. models: `simulated`, `digits` or `cifar10`. audit: rmia or lira."""

    models: str
    shape: str
    count: int
    audit: str
    number: int
    seed: int


@dataclass(frozen=True)
class Persons(Cell):
    """Simulated people who are forgotten, and as many controls. alike: correlation within a person. sizes: least and
    most samples of one."""

    people: int
    sizes: tuple[int, int]
    alike: float
    number: int
    seed: int


Tally = dict[str, float]
EMPTY = ("retrains", "fails", "judged", "covered", "decided", "predicted", "fakes", "passes")


@dataclass(frozen=True)
class Case:
    """One forget set with its models, whichever they are: logits (N, classes) of retrains and of fakes."""

    labels: NDArray[np.int64]
    forget: Positions
    remain: Positions
    holdout: Positions
    parent: NDArray[Any]
    retrains: Sequence[NDArray[Any]]
    fakes: Mapping[str, NDArray[Any]]
    pool: ReferenceSignals | None
    subjects: NDArray[np.int64] | None = None
    grouped: bool = False
    assigned: bool = False


def tally(case: Case, params: RmiaParams | LiraParams) -> Tally:
    """Judge every retrain and every fake."""
    found = dict.fromkeys(EMPTY, 0.0)
    for number, logits in enumerate(case.retrains):
        others = [each for at, each in enumerate(case.retrains) if at != number] if case.pool is None else []
        candidate, parent, judgement = _judged(case, logits, params, others)
        found["retrains"] += 1
        found["fails"] += judgement.verdict == "fail"
        found["decided"] += judgement.verdict != "inconclusive"
        if judgement.interval is not None and judgement.difference is not None:
            found["judged"] += 1
            found["covered"] += judgement.interval.low <= 0 <= judgement.interval.high
            found["predicted"] += _predicted(candidate, parent, judgement)
    for logits in case.fakes.values():
        others = list(case.retrains)[:5] if case.pool is None else []
        found["fakes"] += 1
        found["passes"] += _judged(case, logits, params, others)[2].verdict == "pass"
    return found


def _judged(
    case: Case, logits: NDArray[Any], params: RmiaParams | LiraParams, retrained: Sequence[NDArray[Any]]
) -> tuple[Measurement, Measurement | None, Judgement]:
    right = case.parent[case.holdout].argmax(axis=1) == case.labels[case.holdout]
    candidate, parent, _, judgement = measure.audit(
        logits,
        case.parent,
        case.labels,
        case.forget,
        case.remain,
        case.holdout,
        case.pool,
        params,
        utility_floor=max(0.0, float(right.mean()) - 0.05),
        grouped=case.grouped,
        subjects=case.subjects,
        retrained_logits=() if case.assigned else retrained,
        assigned=case.assigned,
    )
    return candidate, parent, judgement


def _predicted(candidate: Measurement, parent: Measurement | None, judgement: Judgement) -> float:
    """The probability with which this audit was to pass an exact retrain, by its own errors."""
    before, signal = parent.ft_auc if parent else None, candidate.rt_auc
    if before is None or signal is None or judgement.standard_error is None or judgement.null is None:
        return 0.0
    own = Estimate(0.0, judgement.standard_error, judgement.null, judgement.null_bound or 0.0)
    others = (
        Estimate(before.value - judgement.null, before.standard_error, judgement.null),
        Estimate(signal.value - 0.5, signal.standard_error),
    )
    return float(power(np.array([MARGIN]), own, others)[0])


def params_of(audit: str) -> RmiaParams | LiraParams:
    return RmiaParams(margin=MARGIN) if audit == "rmia" else LiraParams(margin=MARGIN)


# -- simulated -------------------------------------------------------------------------------------

WORLDS = 7  # of one part, with RETRAINS each
TRAIN, HOLDOUT, FORGET = 1000, 900, 350


def simulated(part: Part) -> Tally:
    random = np.random.default_rng([part.seed, part.number, SHAPES.index(part.shape), part.count])
    found = dict.fromkeys(EMPTY, 0.0)
    for _ in range(WORLDS):
        for name, value in tally(_simulated(part, random), params_of(part.audit)).items():
            found[name] += value
    return found


def _simulated(part: Part, random: np.random.Generator) -> Case:
    grouped, subjects = False, None
    if part.shape == "by person":
        world = World.of_people(random, np.full(640, 3), 340, gap=1.5, alike=0.3)
        forget = np.flatnonzero(world.people < 117) if world.people is not None else np.arange(0)
        grouped, subjects = True, world.people
    else:
        world = World.draw(random, TRAIN, HOLDOUT, gap=1.5, classes=4)
        forget, world = _chosen(part.shape, random, world)
    odds = [world.log_odds(random, world.without(forget)) for _ in range(RETRAINS)]
    everything = world.without(forget[:0])
    parent = world.log_odds(random, everything)
    partly = [_partly(everything, forget, share) for share in (0.95, 0.85)]
    fakes = {
        "untouched": parent,
        "last layer only": world.log_odds(random, partly[0]),
        "logits damped": 0.3 * parent,
        "fine-tuned a little": world.log_odds(random, partly[1]),
        "collapsed": random.normal(size=world.size),
    }
    return Case(
        labels=world.labels,
        forget=forget,
        remain=np.flatnonzero(world.without(forget)),
        holdout=world.holdout,
        parent=world.logits(parent),
        retrains=[world.logits(each) for each in odds],
        fakes={name: world.logits(each) for name, each in fakes.items()},
        pool=_pool(world, random, part.count),
        subjects=subjects,
        grouped=grouped,
        assigned=part.count == 0 and part.shape == "random",
    )


def _chosen(shape: str, random: np.random.Generator, world: World) -> tuple[Positions, World]:
    train = np.arange(world.train)
    weights = np.ones(world.train)
    if shape == "class-shifted":
        weights = np.array([4.0, 2.0, 1.0, 1.0])[world.labels[train]]
    if shape == "hard tenth":
        return np.sort(np.argsort(world.ease[train])[: world.train // 10]), world
    forget = np.sort(random.choice(train, FORGET, replace=False, p=weights / weights.sum()))
    if shape == "memorised":
        gap = world.gap.copy()
        gap[forget] *= 2
        world = replace(world, gap=gap)
    return forget, world


def _partly(everything: NDArray[np.bool_], forget: Positions, share: float) -> NDArray[np.float64]:
    known = everything.astype(np.float64)
    known[forget] = share
    return known


def _pool(world: World, random: np.random.Generator, count: int) -> ReferenceSignals | None:
    return world.references(random, count) if count else None


def persons(cell: Persons) -> Tally:
    random = np.random.default_rng([cell.seed, cell.number, cell.people, *cell.sizes, int(10 * cell.alike)])
    found = dict.fromkeys(EMPTY, 0.0)
    for _ in range(4):
        sizes = random.integers(cell.sizes[0], cell.sizes[1] + 1, cell.people * 3)
        world = World.of_people(random, sizes, cell.people * 2, gap=1.5, alike=cell.alike)
        whose = world.people if world.people is not None else np.empty(0, dtype=np.int64)
        forget = np.flatnonzero(whose < cell.people)
        parent = world.log_odds(random, world.without(forget[:0]))
        case = Case(
            labels=world.labels,
            forget=forget,
            remain=np.flatnonzero(world.without(forget)),
            holdout=world.holdout,
            parent=world.logits(parent),
            retrains=[world.logits(world.log_odds(random, world.without(forget))) for _ in range(5)],
            fakes={"untouched": world.logits(parent)},
            pool=world.references(random, 4),
            subjects=whose,
            grouped=True,
        )
        for name, value in tally(case, params_of("rmia")).items():
            found[name] += value
    return found


# -- networks --------------------------------------------------------------------------------------


def chosen(loaded: Networks, shape: str, random: np.random.Generator) -> Positions:
    """A forget set of that kind."""
    train, labels = loaded.train, loaded.raw.labels
    if shape == "by person":
        people = np.unique(loaded.subjects[train])
        each = len(train) / len(people)
        return np.flatnonzero(np.isin(loaded.subjects, random.permutation(people)[: round(loaded.forgets / each)]))
    weights = np.ones(len(train))
    if shape == "class-shifted":
        weights = np.where(labels[train] < 5, 4.0, 1.0)
    if shape in ("hard tenth", "memorised") and (pool := loaded.pool(16)) is not None:
        out = np.where(pool.membership, np.nan, pool.log_odds)
        seen = np.where(pool.membership, pool.log_odds, np.nan)
        easy = np.nanmean(out, axis=0)[train]
        gap = np.nanmean(seen, axis=0)[train] - easy
        # A random half of the hardest fifth, so that sets differ; or by how much better a sample is known.
        if shape == "hard tenth":
            fifth = train[np.argsort(easy)[: len(train) // 5]]
            return np.sort(random.choice(fifth, len(fifth) // 2, replace=False))
        weights = np.exp(np.clip(gap, -5, 5) / 2)
    return np.sort(random.choice(train, loaded.forgets, replace=False, p=weights / weights.sum()))


def of_networks(part: Part, loaded: Networks) -> dict[str, Tally]:
    """By number of references and audit: one forget set, whose retrains all of them judge."""
    random = np.random.default_rng([part.seed, part.number, SHAPES.index(part.shape)])
    forget = chosen(loaded, part.shape, random)
    remain = np.setdiff1d(loaded.train, forget)
    seeds = [int(random.integers(2**31)) for _ in range(RETRAINS)]
    logits = loaded.logits(loaded.parent())
    case = Case(
        labels=loaded.raw.labels,
        forget=forget,
        remain=remain,
        holdout=loaded.holdout,
        parent=logits,
        retrains=[loaded.logits(loaded.trained(remain, seed)) for seed in seeds],
        fakes={
            "untouched": logits,
            "last layer only": loaded.logits(loaded.tuned(remain, 1, head=True)),
            "logits damped": 0.3 * logits,
            "fine-tuned a little": loaded.logits(loaded.tuned(remain, 1, head=False)),
            "collapsed": random.normal(size=logits.shape).astype(np.float32),
        },
        pool=None,
        subjects=loaded.subjects if part.shape == "by person" else None,
        grouped=part.shape == "by person",
    )
    found = {}
    for count in COUNTS if part.models == "digits" else (2, 0):
        coin = part.models == "cifar10" and part.shape == "random" and not count  # they stand for canaries
        judged = replace(case, pool=loaded.pool(count), assigned=coin)
        for audit in ("rmia", "lira") if count == 16 else ("rmia",):
            found[f"{audit}:{count}"] = tally(judged, params_of(audit))
    return found


# -- the command -----------------------------------------------------------------------------------

PEOPLE = ((5, (1, 50)), (20, (1, 10)), (100, (1, 3)), (500, (1, 3)))
ALIKE = (0.0, 0.3, 0.8)


PICTURES = ("random", "by person")  # forget sets on CIFAR-10, where a training takes longer


def plan(seed: int, *, full: bool, pictures: bool = False) -> Iterator[Part | Persons]:
    """Rounds: each has a little of every row, so that a run that is stopped has them all. pictures: with CIFAR-10."""
    rounds, sets = (10 if full else 5), (40 if full else 10)
    for number in range(max(rounds, sets)):
        if pictures and number < (sets if full else 2):
            yield from (Part("cifar10", shape, -1, "all", number, seed) for shape in PICTURES)
        if number < sets:
            yield from (Part("digits", shape, -1, "all", number, seed) for shape in SHAPES)
        if number < rounds:
            for shape in SHAPES:
                yield from (Part("simulated", shape, count, "rmia", number, seed) for count in COUNTS)
                yield Part("simulated", shape, 16, "lira", number, seed)
        if number < 10:
            for people, sizes in PEOPLE:
                yield from (Persons(people, sizes, alike, number, seed) for alike in ALIKE)


def compute(store: Store, seed: int, *, full: bool, data: Path | None = None) -> bool:
    """Compute what is missing; whether nothing is missing. data: a folder with CIFAR-10."""
    loaded: dict[str, Networks] = {}

    def of(models: str) -> Networks:
        if models not in loaded:
            if models == "cifar10" and data is not None:
                loaded[models] = networks.on_cifar10(seed, data)
            else:
                loaded[models] = networks.on_digits(seed)
        return loaded[models]

    def work(cell: Part | Persons) -> Callable[[Any], Result]:
        def run(_: Any) -> Result:
            if isinstance(cell, Persons):
                return Result(dict(persons(cell)))
            return Result(dict(simulated(cell) if cell.models == "simulated" else of_networks(cell, of(cell.models))))

        return run

    cells = list(plan(seed, full=full, pictures=data is not None))
    busy = False
    try:
        for cell in cells:
            try:
                store.compute(cell, work(cell), wait=False)
            except Busy:
                busy = True
    except OutOfTime:
        return False
    return not busy or all(store.read(cell) is not None for cell in cells)


Row = dict[str, Any]


def rows(store: Store, cells: Iterable[Part | Persons]) -> tuple[list[Row], list[Row]]:
    """Rows by kind of forget set, and those of people."""
    sums: dict[tuple[Any, ...], Tally] = {}

    def add(where: tuple[Any, ...], figures: Mapping[str, float]) -> None:
        own = sums.setdefault(where, dict.fromkeys(EMPTY, 0.0))
        for name in EMPTY:
            own[name] += figures[name]

    for cell in cells:
        found = store.read(cell)
        if found is None:
            continue
        if isinstance(cell, Persons):
            add(("persons", cell.people, cell.sizes, cell.alike), found.figures)
        elif cell.models != "simulated":
            for name, figures in found.figures.items():
                audit, _, count = name.partition(":")
                add((cell.models, audit, cell.shape, int(count)), figures)
        else:
            add(("simulated", cell.audit, cell.shape, cell.count), found.figures)
    kinds = [
        {"models": where[0], "audit": where[1], "shape": where[2], "references": where[3], **figures}
        for where, figures in sums.items()
        if where[0] != "persons"
    ]
    people = [
        {"people": where[1], "samples": list(where[2]), "alike": where[3], **figures}
        for where, figures in sums.items()
        if where[0] == "persons"
    ]
    kinds.sort(key=lambda row: (row["models"], row["audit"], SHAPES.index(row["shape"]), -row["references"]))
    return kinds, people


def markdown(kinds: Sequence[Row], people: Sequence[Row]) -> str:
    """The tables of docs/audit.md."""
    head = "retrains | false fails | fakes | passes | coverage | inconclusive | predicted |\n"
    lines = [
        f"| Models | Audit | Forget set | References | {head}|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['models']} | {row['audit']} | {row['shape']} | {row['references']} | {_figures(row)} |"
            for row in kinds
        ),
        "",
        f"| People | Samples of each | Correlation | {head}|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['people']} | {row['samples'][0]} to {row['samples'][1]} | {row['alike']} | {_figures(row)} |"
            for row in people
        ),
    ]
    return "\n".join(lines) + "\n"


def _figures(row: Row) -> str:
    def percent(part: float, whole: float) -> str:
        return f"{100 * part / whole:.1f} %" if whole else "none judged"

    judged = row["judged"]
    return " | ".join(
        [
            f"{row['retrains']:.0f}",
            percent(row["fails"], row["retrains"]),
            f"{row['fakes']:.0f}",
            percent(row["passes"], row["fakes"]),
            f"{row['covered'] / judged:.2f}" if judged else "none judged",
            percent(row["retrains"] - row["decided"], row["retrains"]),
            percent(judged - row["predicted"], judged),
        ]
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lethe calibrate",
        description="Measure how often each audit is wrong. Stopped at any time, it goes on with the same --out.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of cells and results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="about two hours: every row with 200 retrains on digits")
    parser.add_argument("--data", type=Path, help="a folder with CIFAR-10: networks that are fine-tuned on it, too")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--budget-seconds", type=float, help=f"stop after this time; default {BUDGET:.0f}, with --full none"
    )
    return parser.parse_args(given)


def _help(out: Path, seed: int, full: bool, budget: float | None, data: Path | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    compute(Store(out, budget), seed, full=full, data=data)


def main(given: Sequence[str] | None = None) -> int:
    """Return 0 when everything is there, 3 when the time limit came first."""
    options = arguments(given)
    budget = options.budget_seconds or (None if options.full else BUDGET)
    torch.set_num_threads(1)
    store = Store(options.out, budget)
    common = (options.out, options.seed, options.full, budget, options.data)
    spawn = multiprocessing.get_context("spawn")
    helpers = [spawn.Process(target=_help, args=common, daemon=True) for _ in range(options.processes - 1)]
    for helper in helpers:
        helper.start()
    complete = compute(store, options.seed, full=options.full, data=options.data)
    for helper in helpers:
        helper.join()
    cells = list(plan(options.seed, full=options.full, pictures=options.data is not None))
    kinds, people = rows(store, cells)
    complete = complete and all(store.read(cell) is not None for cell in cells)
    facts = {"seed": options.seed, "full": options.full, "margin": MARGIN, "complete": complete}
    write_text(options.out / "calibration.json", json.dumps({**facts, "kinds": kinds, "people": people}, indent=1))
    write_text(options.out / "calibration.md", markdown(kinds, people))
    print(f"{'done' if complete else 'stopped at the limit'}: {options.out / 'calibration.md'}")  # noqa: T201
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main())
