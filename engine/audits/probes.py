"""Probes: what a policy or an audit can measure beside the attack, on models instead of logits.

Each takes a case and its parameters and returns fields of a `Measurement` for the models that it measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.catalog import KnownMethodParams, RelearnParams, RobustParams
from app.formats.audit_report import Relearning
from engine import evaluation, references, seeding
from engine.audits import Positions, relearn, robust
from engine.audits.aucs import excess, known_method_apart, known_method_auc
from engine.audits.groups import Groups
from engine.audits.rmia import log_odds
from engine.data.samples import Samples
from engine.errors import ProbeError

SEED = 0
"""Of every probe's order: models are comparable only if all saw one order, also in different jobs."""

ProbeFigures = Mapping[str, dict[str, Any]]
"""Fields of the measurement of `candidate`, and of `parent` where it was measured too."""


@dataclass(frozen=True)
class ProbeCase:
    """What probes work on.

    shadow: (number, positions) to the log-odds (N,) of a model that was trained on the remain set and the positions,
    and unlearned the positions by the method under test; its number seeds it. None: there is no method to imitate.
    retrained: to the log-odds (N,) of an exact retrain without the forget set, as a control.
    """

    candidate: nn.Module
    parent: nn.Module | None
    samples: Samples
    forget: Positions
    holdout: Positions
    shadow: Callable[[int, Positions], NDArray[np.float32]] | None = None
    retrained: Callable[[], NDArray[np.float32]] | None = None

    def tensor(self, positions: Positions) -> Tensor:
        return torch.from_numpy(positions).to(self.samples.labels.device)

    @property
    def models(self) -> dict[str, nn.Module]:
        both = {"candidate": self.candidate, "parent": self.parent}
        return {name: model for name, model in both.items() if model is not None}


def relearning(case: ProbeCase, params: RelearnParams) -> ProbeFigures:
    """Steps until the forget set is back where the parent had it, or at the target that `params` name."""
    if not len(case.forget):
        raise ProbeError("there is no forget set to relearn")
    forget = case.tensor(case.forget)
    known = case.candidate if case.parent is None else case.parent
    if case.parent is None and params.target is None:
        raise ProbeError("without the parent's checkpoint the target must be given")
    target = relearn.target_of(known, case.samples, forget, params)
    found = {}
    for name, model in case.models.items():
        generator = seeding.generator(SEED, forget.device)
        steps = relearn.relearn(model, case.samples, forget, params, generator, target).steps
        figures = Relearning(steps=steps, target=target, reaches=params.reaches, most_steps=params.most_steps)
        found[name] = {"relearning": figures}
    return found


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
    labels = case.samples.labels.cpu().numpy()
    unlearned = np.full((params.shadows, len(labels)), np.nan)
    never = np.full((params.shadows, len(labels)), np.nan)
    for number, row in enumerate(design):
        odds = case.shadow(number, dealt[row])
        unlearned[number, dealt[row]] = odds[dealt[row]]
        never[number, dealt[~row]] = odds[dealt[~row]]
    target = log_odds(evaluation.logits(case.candidate, case.samples.images).cpu().numpy(), labels)
    groups = Groups(case.forget, case.forget[:0], controls)
    auc = known_method_auc(target, unlearned, never, groups, params)
    if auc is None:
        raise ProbeError("too few shadows of each kind for any sample")
    found: dict[str, Any] = {"known_method_ft_auc": auc}
    if case.retrained is not None:
        apart = known_method_apart(target, case.retrained().astype(np.float64), unlearned, never, groups, params)
        found |= {"known_method_control": apart.null, "known_method_excess": excess(apart)}
    return {"candidate": found}


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
