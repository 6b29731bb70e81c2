"""Study *sequential*: request after request on the same model (AMUN paper, 6.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.cells import Adversarial, Forget, Measured, Trained, Unlearned
from experiments.lab import Lab
from experiments.protocol import AMUN, FT, GA, RL, SALUN, Method, Setting
from experiments.report import NOT_MEASURED, Figure, Section, Table, Value, half_width, missing, with_interval
from experiments.scales import Scale
from experiments.store import Cell
from experiments.tables import cost, lab_seconds, slug


@dataclass(frozen=True)
class Chain:
    """A method in a sequence. adaptive: the adversarial set is searched on the model as it is by then (AMUN-A),
    else on the original (AMUN). method None: an exact retrain at each request."""

    label: str
    method: Method | None
    adaptive: bool = False


CHAINS = (
    Chain("AMUN-A", AMUN, adaptive=True),
    Chain("AMUN", AMUN),
    Chain("SalUn", SALUN),
    Chain("RL", RL),
    Chain("FT", FT),
    Chain("GA", GA),
    Chain("Retrain", None),
)
ChainStep = tuple[Trained | Unlearned, Measured, Measured]


def chains(remain: bool) -> list[Chain]:
    return [each for each in CHAINS if remain or not (each.method is None or each.method.needs_remain)]


def steps_of(
    lab: Lab, setting: Setting, chain: Chain, requests: int, share: float, remain: bool, model: int, seed: int
) -> list[ChainStep]:
    """Each request's model, measured on this request's samples and on all forgotten so far; empty while the rate
    of the 10 % task is not known: rates are not tuned again."""
    rate = 0.0
    if chain.method is not None:
        chosen = setting.tuned(lab, chain.method, setting.shares[0], remain)
        if chosen is None:
            return []
        rate = chosen[0]
    original = setting.original(model)
    state: Trained | Unlearned = original
    steps: list[ChainStep] = []
    for part in range(requests):
        forget = Forget(share, seed, part=part, parts=requests)
        so_far = forget.until_here()
        if chain.method is None:
            state = Trained(setting.world, model, _merged(so_far))
        else:
            source = state if chain.adaptive else original
            searched = Adversarial(source, forget, setting.attack) if chain.method.needs_adversarial else None
            method = setting.configured(chain.method, rate)
            state = Unlearned(state, forget, method, remain, searched, so_far[:-1], keep=True)
        steps.append(
            (
                state,
                Measured(state, (forget,), setting.references, gone=so_far[:-1]),
                Measured(state, so_far, setting.references),
            )
        )
    return steps


def _merged(parts: tuple[Forget, ...]) -> Forget:
    """The set of all of `parts` together, which `Forget` can name as the first parts of as many requests."""
    last = parts[-1]
    return Forget(last.share, last.seed, last.classes, last.part, last.parts, whole=True)


def plan(lab: Lab, scale: Scale) -> Iterator[Cell]:
    setting = scale.main
    each = [(chain.method, remain) for remain in (True, False) for chain in chains(remain)]
    yield from setting.prepared((method, remain) for method, remain in each if method is not None)
    for requests, share in scale.sequences:
        for remain in (True, False):
            for model, seed, _ in setting.pairs()[: scale.sequence_runs]:
                for chain in chains(remain):
                    for _, now, so_far in steps_of(lab, setting, chain, requests, share, remain, model, seed):
                        yield now
                        yield so_far


def sections(lab: Lab, scale: Scale) -> list[Section]:
    return [
        _section(lab, scale, requests, share, remain) for requests, share in scale.sequences for remain in (True, False)
    ]


def _section(lab: Lab, scale: Scale, requests: int, share: float, remain: bool) -> Section:
    setting = scale.main
    columns = [
        "method",
        "FR − FT, first",
        "last",
        "mean",
        "FT so far, last",
        "TA, last",
        "RA, last",
        "seconds a request",
    ]
    lines: list[list[Value]] = []
    panels: list[dict[str, Any]] = [
        {"kind": "lines", "title": "FR-AUC − FT-AUC of this request", "x": "request", "series": []},
        {"kind": "lines", "title": "Test accuracy, %", "x": "request", "series": []},
        {"kind": "lines", "title": "Seconds so far", "x": "request", "series": []},
    ]
    for chain in chains(remain):
        values = _values(lab, scale, chain, requests, share, remain)
        if isinstance(values, str):
            lines.append(missing(chain.label, columns, values))
            continue
        difference, accuracy, retained, seconds, so_far = values
        lines.append(
            [
                chain.label, with_interval(difference[:, 0].tolist()), with_interval(difference[:, -1].tolist()),
                float(difference.mean()), float(so_far[:, -1].mean()), float(accuracy[:, -1].mean()),
                float(retained[:, -1].mean()), float(seconds.mean()),
            ]
        )  # fmt: skip
        for panel, each in zip(panels, (difference, accuracy, seconds.cumsum(axis=1)), strict=True):
            spread = [half_width(column.tolist()) for column in each.T]
            panel["series"].append(
                {
                    "label": chain.label,
                    "x": list(range(1, requests + 1)),
                    "y": each.mean(axis=0).tolist(),
                    "error": spread,
                    "runs": len(each),
                }
            )
    access = "with the remain set" if remain else "forget sets alone"
    title = f"{setting.name}: {requests} requests of {100 * share / requests:.3g} % each, {access}"
    notes = (
        "FR − FT: AUC of retained against this request's samples, less AUC of this request's against test samples; "
        "higher is better, and Retrain shows what exact unlearning reaches. Rates of the 10 % task, not tuned again. "
        f"{scale.sequence_runs} run(s); ± is the 95 % t interval over them. FT so far: of all forgotten up to the end."
    )
    name = f"sequence-{slug(setting.name)}-{requests}-{'remain' if remain else 'alone'}"
    figures = [Figure(name, title, panels, "Lines: means of the runs; bands: their 95 % interval.")]
    return Section(title, "", [Table("By method", columns, lines, notes)], figures if panels[0]["series"] else [])


def _values(
    lab: Lab, scale: Scale, chain: Chain, requests: int, share: float, remain: bool
) -> tuple[np.ndarray, ...] | str:
    """FR − FT, TA, RA, seconds and the FT-AUC of all so far, (runs, requests) each; why not, unless all are there."""
    runs = []
    for model, seed, _ in scale.main.pairs()[: scale.sequence_runs]:
        line: list[list[float]] = []
        for state, now, so_far in steps_of(lab, scale.main, chain, requests, share, remain, model, seed):
            found, whole, own = lab.peek(now), lab.peek(so_far), lab.peek(state)
            if found is not None and "failed" in found.figures:
                return f"failed at request {len(line) + 1}"
            if found is None or whole is None or own is None:
                return NOT_MEASURED
            seconds = cost(lab, state) if isinstance(state, Unlearned) else lab_seconds(lab, own)
            if seconds is None:
                return NOT_MEASURED
            figures = found.figures
            line.append([figures["fr"] - figures["ft"], figures["ta"], figures["ra"], seconds, whole.figures["ft"]])
        if not line:
            return NOT_MEASURED
        runs.append(line)
    return tuple(np.moveaxis(np.array(runs, dtype=np.float64), 2, 0))
