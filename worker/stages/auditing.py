"""Measuring stored checkpoints: the audit on all references or a part of them, the probes, and the report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from app import catalog
from app.core.positions import Positions, pack
from app.datasets import samples
from app.datasets.canaries import Canaries
from app.deletions import batches
from app.formats.audit_report import (
    Adversarial,
    AuditReport,
    Balance,
    GateDecision,
    Judgement,
    Measurement,
    ProbeRun,
    References,
)
from app.reports import audit_rows
from app.rules.next_steps import Finding, next_steps
from app.rules.policy import Choice
from engine import checkpoints, evaluation, places, seeding
from engine.audits.measure import FEW_FOR_LIRA, lost
from engine.audits.probes import ProbeCase
from engine.audits.rmia import log_odds
from engine.audits.verdict import FEWEST_RETRAINS
from engine.errors import DivergedError, MethodError, ProbeError
from worker.runtime.run import JobError, Run, StageProgress
from worker.stages import unlearning
from worker.stages.loaded import LoadedModel

NOTHING_HELD = (
    "anything about retained samples, or that the model had been trained on the forgotten ones: no retained sample and "
    "no reference model was at hand"
)
NOT_SHOWN = [
    "that no other attack could tell the forgotten samples apart: only the attack named here was run",
    "that backups, logs or copies outside this service are gone",
    "anything about one forgotten sample by itself: the figures are averages, but for the worst p-value",
]
FEW_REFERENCES = (
    "what another draw of reference models would say: with {count} of them null and interval hold for these alone"
)
NO_REFERENCES = (
    "what an attacker with reference models would see: the attack knows the audited model alone, and is weaker"
)
OTHER_REFERENCES = (
    "what references like the model would say: these are the client's own, of another architecture or recipe as far as "
    "is known, so this is evidence of the attack that has them"
)
MOST_RETRAINS = 20


@dataclass(frozen=True)
class Subject:
    """What is audited: a stored candidate, what it came from, and who is in which group.

    candidate, parent: digests. method: what made it; None where that was no method of the catalog. grouped: the
    forget set is one or more people's own. canaries: they are the forget set, and those that the candidate still knows
    stand in the parent's place.
    """

    candidate: str
    parent: str | None
    forget: Positions
    remain: Positions
    audit: Choice
    method: Choice | None
    grouped: bool = False
    canaries: Canaries | None = None


@dataclass(frozen=True)
class Measurements:
    """before: the parent's, or the control's."""

    candidate: Measurement
    before: Measurement | None
    balance: Balance | None
    judgement: Judgement
    references: References | None


class Auditor:
    """One subject on the device: its logits are computed once, whichever references then look at them."""

    def __init__(self, loaded: LoadedModel, subject: Subject) -> None:
        self._loaded, self._subject = loaded, subject
        self._params = places.parse("audits", subject.audit.name, subject.audit.params)
        self._candidate = loaded.logits(subject.candidate)
        self._parent = loaded.logits(subject.parent) if subject.parent else None
        self._holdout, self._retain = controls(loaded, subject), retained(loaded, subject)
        self._pool = loaded.pool()
        self._references = loaded.pool_signals(self._pool) if self._pool else None
        with loaded.resources.database.read() as session:
            found = audit_rows.retrains(session, loaded.model_id, subject.remain, len(loaded.labels))
            digests = [version.digest for version in found if version.digest != subject.candidate]
            people = samples.people(session, loaded.dataset_id, len(loaded.labels)) if subject.grouped else None
        self._subjects = people
        enough = len(digests) >= FEWEST_RETRAINS and len(subject.forget)
        self._retrained = [loaded.logits(digest) for digest in digests[-MOST_RETRAINS:]] if enough else []

    @property
    def controls(self) -> Positions:
        return self._holdout

    def again(self) -> Auditor:
        """The same with the retrains that are there now."""
        return Auditor(self._loaded, self._subject)

    @property
    def _floor(self) -> float | None:
        if self._parent is None or not len(self._holdout):
            return None
        right = self._parent[self._holdout].argmax(axis=1) == self._loaded.labels[self._holdout]
        best = float(right.mean())
        if self._subject.canaries is None:  # whose accuracy is another one
            best = max(best, self._loaded.blessed_accuracy or 0.0)
        return max(0.0, best - self._loaded.policy.utility_floor)

    def measure(self, candidates: int = 1) -> Measurements:
        """Run the audit. candidates: approximate methods that the policy may try on this forget set."""
        subject, references = self._subject, self._references
        result = places.audit(subject.audit.name)(
            self._candidate,
            self._parent,
            self._loaded.labels,
            subject.forget,
            self._retain,
            self._holdout,
            references,
            self._params,
            utility_floor=self._floor,
            grouped=subject.grouped,
            retrained_logits=self._retrained,
            known=subject.canaries.known if subject.canaries else None,
            candidates=candidates,
            subjects=self._subjects,
            assigned=subject.canaries is not None and subject.canaries.assigned,
        )
        balance, judgement = result[2:]
        unread = balance is None and judgement.null is not None  # too few for this attack, and not needed
        return Measurements(*result, references=None if unread else self._described())

    def _described(self) -> References | None:
        if self._references is None or self._pool is None:
            return None
        signal = str(self._subject.audit.params.get("signal", self._subject.audit.name))
        if not self._references.logits.shape[2]:
            signal = "softmax"
        return References(models=self._pool.size, signal=signal, design=self._pool.design)


def metrics_of(measured: Measurement) -> dict[str, Any]:
    """The figures that a version shows in lists."""
    figures = measured.model_dump(include={"accuracy_forget", "accuracy_retain", "accuracy_test"})
    return figures | {"ft_auc": measured.ft_auc.value if measured.ft_auc else None}


def retained(loaded: LoadedModel, subject: Subject) -> Positions:
    """What is measured of the remain set: people's samples beside people's, canaries beside canaries."""
    return subject.canaries.known if subject.canaries else np.setdiff1d(subject.remain, loaded.canaries)


def controls(loaded: LoadedModel, subject: Subject) -> Positions:
    """Never trained on, and likewise; of canaries of which none was held out, people's."""
    if subject.canaries is not None and len(subject.canaries.held_out):
        return subject.canaries.held_out
    seen = [subject.method, *loaded.policy.named_methods]
    learned = any(choice is not None and catalog.METHODS[choice.name].needs_holdout for choice in seen)
    return np.setdiff1d(loaded.holdout, np.union1d(subject.forget, loaded.reserved) if learned else subject.forget)


# -- probes ----------------------------------------------------------------------------------------


def probed(
    loaded: LoadedModel,
    subject: Subject,
    choices: Sequence[Choice],
    measured: Measurements,
    *,
    before: str | None,
    shadows: Shadows | None,
) -> tuple[Measurements, list[ProbeRun]]:
    """Run probes on the subject; their figures join its measurements. One that has nothing to measure says so.

    before: the checkpoint that still knew the forget set. shadows: models for the probe that imitates the method.
    """
    pool = loaded.pool()
    case = ProbeCase(
        candidate=loaded.restore(subject.candidate),
        parent=loaded.restore(before) if before else None,
        samples=loaded.samples,
        forget=subject.forget,
        holdout=controls(loaded, subject),
        shadow=shadows if subject.method else None,
        retrained=shadows.retrained if shadows and len(subject.remain) else None,
        references=loaded.pool_signals(pool) if pool else None,
        remain=subject.remain,
    )
    runs = []
    for choice in choices:
        began, skipped, trained = time.perf_counter(), None, shadows.trained if shadows else 0
        try:
            found = places.probe(choice.name)(case, places.parse("probes", choice.name, choice.params))
        except (ProbeError, MethodError, DivergedError) as error:
            skipped = str(error)
        else:
            measured = _joined(measured, found)
        runs.append(
            ProbeRun(
                name=choice.name,
                params=choice.params,
                seconds=round(time.perf_counter() - began, 3),
                models_trained=(shadows.trained if shadows else 0) - trained,
                skipped=skipped,
            )
        )
    return measured, runs


def _joined(measured: Measurements, found: Any) -> Measurements:
    before = measured.before
    own = dict(found.get("candidate", {}))
    own["probed"] = {**measured.candidate.probed, **own.get("probed", {})}
    return replace(
        measured,
        candidate=measured.candidate.model_copy(update=own),
        before=before.model_copy(update=found.get("parent", {})) if before else None,
    )


class Shadows:
    """Models that were trained on a set and unlearned it by the subject's method, and an exact retrain; each is kept
    once it is done."""

    def __init__(self, run: Run, loaded: LoadedModel, subject: Subject, progress: StageProgress) -> None:
        self._run, self._loaded, self._subject, self._progress = run, loaded, subject, progress
        self.trained = 0
        self._control: nn.Module | None = None
        method = subject.method.model_dump_json() if subject.method else ""
        parts = (pack(subject.remain), method.encode(), loaded.policy.model_dump_json().encode())
        self._base = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def __call__(self, number: int, positions: Positions) -> NDArray[np.float32]:
        base, name = f"shadows:{self._base}", f"{number}:{hashlib.sha256(pack(positions)).hexdigest()[:16]}"
        kept = self._run.stored("shadows", base)
        done = self._run.resources.tensors(kept[0]) if kept else {}
        if name not in done:
            done[name] = torch.from_numpy(self._make(number, positions))
            self._run.keep("shadows", base, self._run.put_tensors(done))
        return done[name].cpu().numpy()

    def retrained(self) -> nn.Module:
        """An exact retrain on the remain set, as a control of all probes: trained once."""
        if self._control is None:
            self._control = self._retrain()
        return self._control

    def _retrain(self) -> nn.Module:
        base, loaded = f"control:{self._base}", self._loaded
        seed = seeding.derive(self._run.claim.seed, "control")
        try:
            model = loaded.fresh(seed)
        except JobError as error:  # no probe is worth a job
            raise ProbeError(f"no exact retrain can stand beside it: {error}") from None
        if (kept := self._run.stored("control", base)) is not None:
            return checkpoints.fill(model, self._run.resources.tensors(kept[0]))
        order = seeding.generator(seed, loaded.samples.labels.device)
        part = self._progress.part(0.0, 1.0, base)
        self.trained += 1
        model = loaded.recipe.train(model, loaded.samples, loaded.on_device(self._subject.remain), order, part)
        self._run.keep("control", base, self._run.put_tensors(dict(model.state_dict())))
        return model

    def _odds(self, model: nn.Module) -> NDArray[np.float32]:
        logits = evaluation.logits(model, self._loaded.samples.images).cpu().numpy()
        return log_odds(logits, self._loaded.labels).astype(np.float32)

    def _make(self, number: int, positions: Positions) -> NDArray[np.float32]:
        loaded, method, run = self._loaded, self._subject.method, self._run
        if method is None:
            raise ProbeError("the version was not made by a method that shadows could imitate")
        entry = catalog.METHODS[method.name]
        if entry.needs_adversarial and catalog.ATTACKS[loaded.policy.attack.name].needs_given:
            raise ProbeError("the attack needs another version's adversarial set, which has no never-trained samples")
        seed = seeding.derive(run.claim.seed, "shadow", number)
        part = self._progress.part(0.0, 1.0, f"shadow:{self._base}:{number}")
        model = loaded.fresh(seeding.derive(seed, "taught"))
        if not entry.exact:  # exact retraining does not use the trained model
            self.trained += 1
            rows = loaded.on_device(np.union1d(self._subject.remain, positions))
            order = seeding.generator(seeding.derive(seed, "order"), loaded.samples.labels.device)
            loaded.recipe.train(model, loaded.samples, rows, order, part)
        adversarial = None
        if entry.needs_adversarial:
            adversarial = unlearning.attacked(loaded, model, positions, loaded.policy.attack)
        seen = unlearning.remain_access(loaded.policy, positions, self._subject.remain, seed)
        self.trained += 1
        part = self._progress.part(0.0, 1.0, f"shadow:{self._base}:{number}:forgotten")
        model = unlearning.unlearned(loaded, model, method, positions, seen, adversarial, seed, part)
        return self._odds(model)


def _next_steps(loaded: LoadedModel, subject: Subject, measured: Measurements, *, sham: bool) -> list[str]:
    judgement, balance, own = measured.judgement, measured.balance, measured.candidate.ft_auc
    if sham:
        return []
    with loaded.resources.database.read() as session:
        training = batches.step_duration(session, loaded.model_id, "retrain")
    interval = judgement.interval
    found = Finding(
        verdict=judgement.verdict,
        margin=judgement.margin,
        forgotten=own.positives if own else len(subject.forget),
        controls=own.negatives if own else len(controls(loaded, subject)),
        references=measured.references.models if measured.references else 0,
        null_source=judgement.null_source,
        by_person=subject.grouped,
        people=balance.effective_persons if balance else None,
        bound=judgement.null_bound or 0.0,
        leaks=judgement.parent_failed,
        fits=interval is not None and -judgement.margin <= interval.low and interval.high <= judgement.margin,
        training=training.total_seconds() if training else None,
        exact=subject.method is not None and catalog.METHODS[subject.method.name].exact,
        asked=len(subject.forget),
        uncovered=own is not None and lost(len(subject.forget), own.positives),
        too_few=judgement.reason == FEW_FOR_LIRA,
    )
    return next_steps(found)


# -- the report ------------------------------------------------------------------------------------


def _not_shown(loaded: LoadedModel, subject: Subject, measured: Measurements) -> list[str]:
    found = list(NOT_SHOWN)
    if loaded.base is not None:
        found.append(
            f"that the base {loaded.base}, from which this model and all that it is compared with start, never saw "
            f"the dataset; what is known of it: {loaded.base_word}"
        )
    if measured.judgement.given_references:
        count = measured.references.models if measured.references else 0
        found.append(FEW_REFERENCES.format(count=count) if count else NO_REFERENCES)
    if measured.references and measured.references.design == "given-other":
        found.append(OTHER_REFERENCES)
    return found if len(subject.remain) or measured.references else [*found, NOTHING_HELD]


def report_of(
    loaded: LoadedModel,
    subject: Subject,
    measured: Measurements,
    *,
    seed: int,
    stage_seconds: Mapping[str, float],
    made_by: str = "",
    version: int | None = None,
    adversarial: Adversarial | None = None,
    gate: GateDecision | None = None,
    probes: Sequence[ProbeRun] = (),
    canaries: int = 0,
    sham: bool = False,
) -> AuditReport:
    """made_by: what made the candidate, where that was no method of the catalog. canaries: unlearned along."""
    return AuditReport(
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=loaded.model_id,
        version=version,
        checkpoint=subject.candidate,
        parent_checkpoint=subject.parent,
        method=subject.method.name if subject.method else made_by,
        method_params=dict(subject.method.params) if subject.method else {},
        remain_access=loaded.policy.remain,
        of="canaries" if subject.canaries else "forget-set",
        sham=sham,
        canaries=canaries,
        forget_samples=len(subject.forget),
        retain_samples=len(retained(loaded, subject)),
        test_samples=len(controls(loaded, subject)),
        audit=subject.audit.name,
        audit_params=dict(subject.audit.params),
        candidate=measured.candidate,
        parent=None if subject.canaries else measured.before,
        control=measured.before if subject.canaries else None,
        balance=measured.balance,
        judgement=measured.judgement,
        references=measured.references,
        adversarial=adversarial,
        gate=gate,
        probes=list(probes),
        seed=seed,
        stage_seconds=dict(stage_seconds),
        environment=seeding.environment(loaded.resources.device, loaded.recipe.precision),
        next_steps=_next_steps(loaded, subject, measured, sham=sham),
        not_shown=_not_shown(loaded, subject, measured),
    )
