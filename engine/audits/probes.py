"""Probes: what a policy or an audit can measure beside the attack, on models instead of logits.

Each takes a case and its parameters and returns fields of a `Measurement` for the models that it measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.catalog import (
    CompletenessParams,
    KnownMethodParams,
    MostVulnerableParams,
    NeighboursParams,
    RelearnParams,
    ResidualParams,
    RobustParams,
    TwoVersionsParams,
)
from app.formats.audit_report import Difference, Interval, ProbeFigure, Relearning
from engine import evaluation, references, seeding
from engine.audits import Floats, Positions, exposure, relearn, residual, robust, roc
from engine.audits.aucs import excess, known_method_apart, known_method_auc
from engine.audits.groups import Groups, Part, strata
from engine.audits.lira import Moments
from engine.audits.nulls import NullModel, paired
from engine.audits.rmia import log_odds
from engine.audits.rule import Z95
from engine.data.samples import Samples
from engine.errors import ProbeError
from engine.references import ReferenceSignals

SEED = 0
"""Of every probe's order: models are comparable only if all saw one order, also in different jobs."""

ProbeFigures = Mapping[str, dict[str, Any]]
"""Fields of the measurement of `candidate`, and of `parent` where it was measured too."""


@dataclass(frozen=True)
class ProbeCase:
    """What probes work on.

    shadow: (number, positions) to the log-odds (N,) of a model that was trained on the remain set and the positions,
    and unlearned the positions by the method under test; its number seeds it. None: there is no method to imitate.
    retrained: an exact retrain without the forget set, as a control; None where none can be trained.
    references: of the pool. remain: what the candidate is trained on.
    """

    candidate: nn.Module
    parent: nn.Module | None
    samples: Samples
    forget: Positions
    holdout: Positions
    shadow: Callable[[int, Positions], NDArray[np.float32]] | None = None
    retrained: Callable[[], nn.Module] | None = None
    references: ReferenceSignals | None = None
    remain: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def tensor(self, positions: Positions) -> Tensor:
        return torch.from_numpy(positions).to(self.samples.labels.device)

    @property
    def models(self) -> dict[str, nn.Module]:
        both = {"candidate": self.candidate, "parent": self.parent}
        return {name: model for name, model in both.items() if model is not None}

    @property
    def labels(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.samples.labels.cpu().numpy()
        return found

    def logits(self, model: nn.Module) -> Floats:
        """(N, classes)."""
        return evaluation.logits(model, self.samples.images).cpu().numpy().astype(np.float64)

    def log_odds(self, model: nn.Module) -> Floats:
        """(N,), of the true class."""
        return log_odds(self.logits(model), self.labels)

    def forgotten(self) -> Positions:
        """Raises ProbeError: there is no forget set."""
        return self.forget if len(self.forget) else _nothing("there is no forget set")

    def signals(self) -> ReferenceSignals:
        """Raises ProbeError: there is no pool."""
        return self.references or _nothing("there are no reference models")

    def before(self) -> nn.Module:
        """Raises ProbeError: the parent is gone."""
        return self.parent or _nothing("the checkpoint before is not here any more")


def _nothing(why: str) -> NoReturn:
    raise ProbeError(why)


def relearning(case: ProbeCase, params: RelearnParams) -> ProbeFigures:
    """Steps until the forget set is back where the parent had it, or at the target that `params` name.

    Beside the candidate's are those of an exact retrain, where one can be trained: how many steps a model takes that
    holds nothing of the set.
    """
    if not len(case.forget):
        raise ProbeError("there is no forget set to relearn")
    forget = case.tensor(case.forget)
    known = case.candidate if case.parent is None else case.parent
    if case.parent is None and params.target is None:
        raise ProbeError("without the parent's checkpoint the target must be given")
    target = relearn.target_of(known, case.samples, forget, params)

    def steps(model: nn.Module) -> int | None:
        generator = seeding.generator(SEED, forget.device)
        return relearn.relearn(model, case.samples, forget, params, generator, target).steps

    common: dict[str, Any] = {"target": target, "reaches": params.reaches, "most_steps": params.most_steps}
    beside: dict[str, Any] = {}
    if case.retrained is not None:
        with suppress(ProbeError):  # none can be trained
            beside = {"controlled": True, "control_steps": steps(case.retrained())}
    return {
        name: {"relearning": Relearning(steps=steps(model), **common, **(beside if name == "candidate" else {}))}
        for name, model in case.models.items()
    }


def robust_accuracy(case: ProbeCase, params: RobustParams) -> ProbeFigures:
    """Accuracy on the holdout under a fixed attack."""
    if not len(case.holdout):
        raise ProbeError("there are no never-trained samples to attack")
    holdout = case.tensor(case.holdout)
    return {
        name: {"robust_accuracy": robust.robust_accuracy(model, case.samples, holdout, params)}
        for name, model in case.models.items()
    }


def known_method(case: ProbeCase, params: KnownMethodParams) -> ProbeFigures:
    """FT-AUC of the attack that knows the method, from shadows that unlearned sets of the forget set's size.

    Its null is not 0.5: shadows are damaged by the method, and a retrain is not. On the digits retrains have 0.46. So
    the same attack on one exact retrain stands beside it, and the difference of both on the same samples.
    """
    if case.shadow is None:
        raise ProbeError("the version was not made by a method that shadows could imitate")
    dealt, controls, design = deal(case.forget, case.holdout, params.shadows)
    unlearned, never = (np.full((params.shadows, len(case.samples.labels)), np.nan) for _ in range(2))
    for number, row in enumerate(design):
        odds = case.shadow(number, dealt[row])
        unlearned[number, dealt[row]] = odds[dealt[row]]
        never[number, dealt[~row]] = odds[dealt[~row]]
    target = case.log_odds(case.candidate)
    groups = Groups(case.forget, case.forget[:0], controls)
    auc = known_method_auc(target, unlearned, never, groups, params)
    if auc is None:
        raise ProbeError("too few shadows of each kind for any sample")
    found: dict[str, Any] = {"known_method_ft_auc": auc}
    if case.retrained is not None:
        apart = known_method_apart(target, case.log_odds(case.retrained()), unlearned, never, groups, params)
        found |= {"known_method_control": apart.null, "known_method_excess": excess(apart)}
    return {"candidate": found}


# -- probes with an exact retrain beside them ------------------------------------------------------


def complete(case: ProbeCase, params: CompletenessParams) -> ProbeFigures:
    """Mean completeness over the forget set; the shadows are the references that left a sample out."""
    references, forget = case.signals(), case.forgotten()
    known = np.isfinite(references.log_odds).all(axis=0)
    outside = Moments.of(np.where(known, references.log_odds, 0).astype(np.float64), ~references.membership & known)
    shadow, deviation = outside.gaussian("pooled")
    rows = forget[np.isfinite(shadow[forget]) & np.isfinite(deviation[forget])]
    if not len(rows):
        raise ProbeError("no two reference models left out a forgotten sample")
    before = case.log_odds(case.before())

    def each(model: nn.Module) -> Seen:
        after = case.log_odds(model)[rows]
        return exposure.completeness(after, before[rows], shadow[rows], deviation[rows], params.steps), {}

    return _means(case, "completeness", each)


def most_vulnerable(case: ProbeCase, params: MostVulnerableParams) -> ProbeFigures:
    """Share of the most vulnerable forgotten samples whose likelihood is higher under the models that saw them.

    Which ones are the most vulnerable is read off the references, before anybody looks at the candidate.
    """
    references, forget = case.signals(), case.forgotten()
    known = np.isfinite(references.log_odds).all(axis=0)
    signals = np.where(known, references.log_odds, 0).astype(np.float64)
    inside = references.membership.sum(axis=0)
    both = known & (inside > 0) & (inside < len(signals))
    rows = forget[both[forget]]
    if not len(rows):
        raise ProbeError("no reference models saw forgotten samples that others left out")
    signals, membership = signals[:, both], references.membership[:, both]
    where = np.searchsorted(np.flatnonzero(both), rows)
    exposed = exposure.vulnerability(signals, membership)[where]
    if not np.isfinite(exposed).all():
        raise ProbeError("no sample has two reference models of a kind")
    count = max(1, round(params.share * len(rows)))
    worst = np.sort(np.argsort(-exposed, kind="stable")[:count])

    def each(model: nn.Module) -> Seen:
        ratios = exposure.log_ratio(case.log_odds(model)[both], signals, membership, params.prior)[where[worst]]
        return (ratios > 0).astype(np.float64), {"mean_log_ratio": float(ratios.mean())}

    return _means(case, "most_vulnerable", each)


def residual_knowledge(case: ProbeCase, params: ResidualParams) -> ProbeFigures:
    """Share of the forget set that is misclassified as it is, and recognised after some small random change."""
    rows = case.tensor(case.forgotten())

    def each(model: nn.Module) -> Seen:
        seen = residual.recognised(model, case.samples, rows, params, seeding.generator(SEED, rows.device))
        again = ~seen.plain & (seen.share > 0)
        return again.astype(np.float64), {"recognised_share": float(seen.share.mean())}

    return _means(case, "residual_knowledge", each)


def two_versions(case: ProbeCase, params: TwoVersionsParams) -> ProbeFigures:  # noqa: ARG001
    """AUC of the fall in log-odds from the version before, of forgotten samples against never-trained ones.

    An exact retrain shows it too: who has both versions sees what left. The more leave together, the less it says of
    one of them.
    """
    forget, before = case.forgotten(), case.log_odds(case.before())
    if not len(case.holdout):
        raise ProbeError("there are no never-trained controls")
    parts: list[Part] = [(1.0, forget, case.holdout)]
    return _aucs(case, "two_versions", lambda model: before - case.log_odds(model), parts, len(forget))


def neighbours(case: ProbeCase, params: NeighboursParams) -> ProbeFigures:
    """AUC of the log-odds of the nearest class, of forgotten samples against never-trained ones of the same class.

    What a model gives to the class itself is left out, so hiding the class hides nothing here.
    """
    labels, forget = case.labels, case.forgotten()
    gone, left = (np.bincount(labels[each], minlength=labels.max() + 1) for each in (forget, case.remain))
    whole = np.flatnonzero((gone > 0) & (gone >= params.least_share * (gone + left)))
    rows, controls = (each[np.isin(labels[each], whole)] for each in (forget, case.holdout))
    if not len(rows):
        raise ProbeError("the forget set is not most of any class")
    parts = strata(labels, rows, controls)
    if parts is None:
        raise ProbeError("a forgotten class has no never-trained sample")
    beside = case.retrained() if case.retrained else None
    judge = case.logits(case.candidate if beside is None else beside)  # what a retrain takes the class for
    nearest = exposure.nearest_classes(judge[controls], labels[controls])
    both = np.concatenate([rows, controls])

    def each(model: nn.Module) -> Floats:
        values = np.zeros(len(labels))
        values[both] = exposure.neighbour_scores(case.logits(model)[both], labels[both], nearest)
        return values

    return _aucs(case, "neighbours", each, parts, len(rows), {"classes": float(len(whole))})


Seen = tuple[Floats, dict[str, float]]
"""What a probe sees of a model: a figure of each sample, and details."""


def _means(case: ProbeCase, name: str, each: Callable[[nn.Module], Seen]) -> ProbeFigures:
    """The mean over samples of what `each` sees of a model, the same of a retrain, and their paired difference."""
    own, details = each(case.candidate)
    control, apart = None, None
    if case.retrained is not None:
        values, beside = each(case.retrained())
        control, between = float(values.mean()), own - values
        details |= {f"{name}_control": value for name, value in beside.items()}
        if len(between) > 1:
            apart = _difference(float(between.mean()), float(between.std(ddof=1) / np.sqrt(len(between))))
    figure = ProbeFigure(value=float(own.mean()), control=control, excess=apart, samples=len(own), details=details)
    return {"candidate": {"probed": {name: figure}}}


def _aucs(
    case: ProbeCase,
    name: str,
    each: Callable[[nn.Module], Floats],
    parts: Sequence[Part],
    samples: int,
    details: dict[str, float] | None = None,
) -> ProbeFigures:
    """The AUC of what `each` says of all samples, the same of a retrain, and their paired difference."""
    own = each(case.candidate)
    value = sum(weight * roc.auc(own[p], own[n]) for weight, p, n in parts)
    control, apart = None, None
    if case.retrained is not None:
        null = NullModel(each(case.retrained()), np.ones(len(own), dtype=bool))
        found = paired(own, [null], parts)
        control, apart = found.null, excess(found)
    figure = ProbeFigure(value=value, control=control, excess=apart, samples=samples, details=details or {})
    return {"candidate": {"probed": {name: figure}}}


def _difference(value: float, error: float) -> Difference:
    return Difference(value=value, interval=Interval(low=value - Z95 * error, high=value + Z95 * error))


def deal(forget: Positions, holdout: Positions, shadows: int) -> tuple[Positions, Positions, NDArray[np.bool_]]:
    """Deal the forget set and as many never-trained controls to the shadows: each unlearns one half of them, as its
    forget set, and never sees the other.

    Returns:
        What is dealt (M,), the controls among it, and which shadow unlearns what, (shadows, M).

    Raises:
        ProbeError: there is nothing to deal.
    """
    size = min(len(forget), len(holdout))
    if not size:
        raise ProbeError("there are no forgotten samples, or no never-trained controls")
    controls = np.sort(np.random.default_rng(SEED).choice(holdout, size, replace=False))
    dealt = np.concatenate([forget, controls])
    return dealt, controls, references.membership(shadows, len(dealt), SEED)
