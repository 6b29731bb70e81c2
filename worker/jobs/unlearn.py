"""The product: one unlearn job, read top to bottom.

    attack     an adversarial example of each forget sample, on the current version (AMUN-A) or the base (AMUN)
    finetune   the method of the job's step edits the parent into a candidate
    audit      the candidate, reloaded from its digest, is measured, and the gate decides on it (docs/gate.md)
    publish    one fenced transaction: version, report, outcomes, events; or the escalation to the next step

Each stage stores what it made, so that another worker goes on from there. Where the policy asks for canaries, the first
two take them along with the forget set; what is audited and decided on are the requests' own samples.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sqlalchemy import select

from app import catalog
from app.blobs import usage
from app.blobs.folder import Stored
from app.core import crash_points
from app.core.positions import Positions, pack, unpack
from app.core.tables import AdversarialRow, Dataset, Model, Version
from app.deletions import batches
from app.formats.audit_report import Adversarial, AuditReport, GateDecision, ProbeRun
from app.models import versions
from app.models.versions import ForgetBatch
from app.releases import escalation, publishing
from app.rules import gate
from app.rules.audit_plan import RETRAINS
from app.rules.gate import Finding, GateAction
from app.rules.policy import Choice
from app.rules.states import JobKind
from engine.attacks import AttackResult
from engine.attacks.transfer import transfer_rate
from engine.errors import DeviceMemoryError, DivergedError, MethodError
from engine.training import Progress
from worker.jobs import train
from worker.runtime.run import JobError, Run
from worker.stages import auditing, fingerprints, unlearning
from worker.stages.auditing import Auditor, Measurements, Subject
from worker.stages.loaded import LoadedModel
from worker.stages.parts import together

log = logging.getLogger("lethe.worker")


@dataclass(frozen=True)
class Work:
    """What an unlearn job starts from."""

    loaded: LoadedModel
    parent: Version
    batch: ForgetBatch
    step: int = 0

    @property
    def method(self) -> Choice:
        return self.loaded.policy.methods[self.step]

    @property
    def base(self) -> str:
        """Names all that a stage's result depends on: a request that was refused meanwhile makes it another."""
        found = hashlib.sha256(self.parent.digest.encode())
        policy = f"{self.loaded.policy.model_dump_json()}:{self.step}"
        for part in (pack(self.batch.gone), pack(self.batch.remain), policy.encode()):
            found.update(hashlib.sha256(part).digest())
        return found.hexdigest()


def unlearn(run: Run) -> None:
    work = _load(run)
    if work is None or not len(work.batch.forget):
        with run.resources.database.write() as session:
            publishing.nothing_to_forget(session, run.claim)
        return
    try:
        found = attack(run, work)
        run.give_way()
        stored = finetune(run, work, found)
        run.give_way()
    except (MethodError, DivergedError, DeviceMemoryError, AttackError) as error:
        if not pass_over(run, work, error):
            raise
        return
    report, action = audit(run, work, stored, found)
    publish(run, work, stored, report, action)


class AttackError(JobError):
    """The policy's attack has nothing to work with."""


def pass_over(run: Run, work: Work, error: Exception) -> bool:
    """The method of this step cannot run: go on with the next; False where no step is left that could."""
    policy = work.loaded.policy
    with run.resources.database.write() as session:
        clock = escalation.history(session, run.claim, policy, work.batch.due_at).clock
        action = gate.cannot_run(str(error), policy.steps, work.step, clock)
        if action.action == "escalate":
            escalation.escalate(session, run.claim, policy, action)
            crash_points.point("unlearn.publish.uncommitted")
    return action.action == "escalate"


def _load(run: Run) -> Work | None:
    """None: the model has no version, so nothing was learned. Its training came before this job and has ended, or it
    comes after it, and leaves the samples out."""
    loaded = LoadedModel.load(run.resources, run.claim)
    loaded = replace(loaded, policy=escalation.policy_of(run.claim.params, loaded.policy))
    with run.resources.database.read() as session:
        model = session.get_one(Model, loaded.model_id)
        parent = versions.current(session, model)
        if parent is None:
            return None
        dataset = session.get_one(Dataset, loaded.dataset_id)
        batch = versions.batch(session, run.claim.id, dataset, parent, loaded.policy.canaries)
    if dataset.carried_for is None and batches.step_of(run.claim.params) == 0:
        # of carried data no one here knows what else the model was trained on
        gone, all_ = (
            np.bincount(loaded.labels[each], minlength=loaded.classes).tolist()
            for each in (batch.forget, np.union1d(batch.gone, batch.remain))
        )
        loaded = replace(loaded, policy=loaded.policy.for_shape(gone, all_))
    return Work(loaded, parent, batch, batches.step_of(run.claim.params))


# -- attack ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdversarialSet:
    """The adversarial set, aligned with the forget set, and where it comes from."""

    result: AttackResult
    source: str  # recompute | precomputed
    transfer: dict[str, float | None]  # how another version's set fares on the parent; empty for a search


def attack(run: Run, work: Work) -> AdversarialSet | None:
    """The adversarial set D_A; None for a method that needs none."""
    policy = work.loaded.policy
    if not catalog.METHODS[work.method.name].needs_adversarial:
        return None
    with run.stage("attack", 0.0, 0.4) as progress:
        if kept := run.stored("adversarial", work.base):
            digest, facts = kept
            return AdversarialSet(AttackResult(**run.resources.tensors(digest)), facts["source"], facts["transfer"])
        source = policy.adversarial
        result = precomputed(work) if source == "precomputed" else None
        if result is None:
            source = "recompute"
            result = attack_positions(work.loaded, work.parent, work.batch.gone, progress)
        transfer = _transfer(work, result)
        run.keep("adversarial", work.base, run.put_tensors(vars(result)), source=source, transfer=transfer)
    return AdversarialSet(result, source, transfer)


def _transfer(work: Work, result: AttackResult) -> dict[str, float | None]:
    """Both explain a loss of accuracy: examples that do not fool this model, or fool it otherwise."""
    if not catalog.ATTACKS[work.loaded.policy.attack.name].needs_given:
        return {}
    parent = work.loaded.restore(work.parent.digest)
    rate = transfer_rate(parent, work.loaded.samples.labels[work.loaded.on_device(work.batch.gone)], result)
    return {"fooled": rate.fooled, "agreed": rate.agreed}


def attack_positions(loaded: LoadedModel, base: Version, positions: Positions, progress: Progress) -> AttackResult:
    """Run the policy's attack on the samples at `positions` against version `base`."""
    choice = loaded.policy.attack

    def given(params: catalog.Params) -> AttackResult:
        version = getattr(params, "version", None)
        found = kept_set(loaded, positions, lambda row: version in (None, row.version))
        if found is None:
            raise AttackError("no-adversarial-set", "no adversarial set of another version covers the forget set")
        return found

    needs = catalog.ATTACKS[choice.name].needs_given
    model = loaded.restore(base.digest)
    return unlearning.attacked(loaded, model, positions, choice, given if needs else None, progress)


def precomputed(work: Work) -> AttackResult | None:
    """The forget set's rows of a precomputed set, or None where none covers them all: then it is recomputed."""
    choice = work.loaded.policy.attack

    def same(row: AdversarialRow) -> bool:
        return row.attack == choice.name and row.attack_params == choice.params

    return kept_set(work.loaded, work.batch.gone, same)


def kept_set(loaded: LoadedModel, positions: Positions, fits: Callable[[AdversarialRow], bool]) -> AttackResult | None:
    """Rows for `positions`, in their order, of the oldest kept set of the model that fits and covers them all."""
    with loaded.resources.database.read() as session:
        query = select(AdversarialRow).where(AdversarialRow.model_id == loaded.model_id).order_by(AdversarialRow.id)
        for row in session.scalars(query):
            covered = unpack(row.positions)
            if fits(row) and np.isin(positions, covered).all():
                digest = row.digest
                break
        else:
            return None
    rows = loaded.on_device(np.searchsorted(covered, positions))
    return AttackResult(**{name: tensor[rows] for name, tensor in loaded.resources.tensors(digest).items()})


# -- finetune --------------------------------------------------------------------------------------


def finetune(run: Run, work: Work, found: AdversarialSet | None) -> Stored:
    """Edit the parent into a candidate by the method of the job's step, and store it."""
    loaded, batch, seed = work.loaded, work.batch, run.claim.seed
    with run.stage("finetune", 0.4, 0.8) as progress:
        if kept := run.stored("candidate", work.base):
            return Stored(kept[0], kept[1]["size"])
        model = unlearning.unlearned(
            loaded,
            loaded.restore(work.parent.digest),
            work.method,
            batch.gone,
            unlearning.remain_access(loaded.policy, batch.gone, batch.remain, seed),
            found.result if found else None,
            seed,
            progress.part(0.0, 1.0, f"finetune:{work.base}"),
        )
        stored = run.put(partial(loaded.save, model))
        run.keep("candidate", work.base, stored)
    return stored


# -- audit -----------------------------------------------------------------------------------------


def audit(run: Run, work: Work, stored: Stored, found: AdversarialSet | None) -> tuple[AuditReport, GateAction]:
    """Measure the candidate as it was stored, not as it lies in memory, and decide on it."""
    policy, probes = work.loaded.policy, list[ProbeRun]()
    subject = Subject(
        candidate=stored.digest,
        parent=work.parent.digest,
        forget=work.batch.forget,
        remain=work.batch.remain,
        audit=policy.audit,
        method=work.method,
        grouped=work.batch.grouped,
    )
    with run.stage("audit", 0.8, 0.9 if policy.probes else 0.98):
        measured, action, decision = decide(run, work, Auditor(work.loaded, subject))
    if policy.probes and action.action == "publish":
        with run.stage("probe", 0.9, 0.98) as progress:
            shadows = auditing.Shadows(run, work.loaded, subject, progress)
            measured, probes = auditing.probed(
                work.loaded, subject, policy.probes, measured, before=subject.parent, shadows=shadows
            )
    adversarial = _describe(policy.attack.name, found, work.batch) if found else None
    report = auditing.report_of(
        work.loaded,
        subject,
        measured,
        seed=run.claim.seed,
        stage_seconds=run.stage_seconds,
        adversarial=adversarial,
        gate=decision,
        probes=probes,
        canaries=len(work.batch.canaries),
    )
    return report, action


def decide(run: Run, work: Work, auditor: Auditor) -> tuple[Measurements, GateAction, GateDecision]:
    """Judge the candidate, counting all that the policy may try (docs/gate.md, "Several candidates")."""
    policy, steps = work.loaded.policy, work.loaded.policy.steps
    with run.resources.database.read() as session:
        history = escalation.history(session, run.claim, policy, work.batch.due_at)
        training = batches.step_duration(session, work.loaded.model_id, "retrain")
    exact = steps[work.step].exact
    rejudged = 0 if exact else history.rejudged
    count = 1 if exact else gate.candidates(steps)
    measured = auditor.measure(count)
    sizes = len(work.batch.forget), len(auditor.controls)
    null, most = measured.judgement.null_source, policy.null_seconds if policy.remain == "full" and not exact else 0.0
    if gate.retrains_null(null, *sizes, training, most, history.clock) and retrained_null(run):
        measured = auditor.again().measure(count)
    judgement = escalation.judged_again(measured.judgement, rejudged)
    measured = replace(measured, judgement=judgement)
    finding = Finding(
        judgement.verdict,
        over_forgotten=judgement.over_forgotten,
        utility_kept=judgement.utility_kept is not False,
        leans=judgement.leans,
    )
    inconclusive = policy.on_inconclusive == "retrain"
    action = gate.decide(finding, steps, work.step, history.clock, retrain_inconclusive=inconclusive)
    decision = GateDecision(
        step=work.step + 1,
        steps=len(steps),
        action=action.action,
        reason=action.reason,
        next_method=policy.methods[action.step].name if action.step is not None else None,
        alert=action.alert,
        earlier=history.earlier,
        rejudged=rejudged,
    )
    return measured, action, decision


def retrained_null(run: Run) -> bool:
    """Train exact retrains on what the candidate keeps, as the null of a batch that has no other; whether they are
    there. Where one fails the batch is judged without them."""
    lanes = {number: f"null:{run.claim.id}:{number}" for number in range(RETRAINS)}
    with run.stage("null", 0.85, 0.9) as progress:
        try:
            together(run, progress, JobKind.TRAIN, lanes, train.train, "exact retrain", null_of=run.claim.id)
        except JobError as error:
            log.warning("no null by retrains: %s", error.detail)
            return False
    return True


def _describe(attack: str, found: AdversarialSet, batch: ForgetBatch) -> Adversarial:
    """Of the forget set's own samples: canaries are in no figure of a request."""
    own = torch.from_numpy(np.searchsorted(batch.gone, batch.forget)).to(found.result.found.device)
    result = AttackResult(**{name: tensor[own] for name, tensor in vars(found.result).items()})
    hits = result.found.cpu()
    radii, counts = torch.unique(result.radii.cpu()[hits], return_counts=True)
    return Adversarial(
        attack=attack,
        policy="precomputed" if found.source == "precomputed" else "recompute",
        found=int(hits.sum()),
        total=len(hits),
        mean_norm=float(result.norms.cpu()[hits].mean()) if hits.any() else None,
        radius_counts={f"{radius:.4g}": count for radius, count in zip(radii.tolist(), counts.tolist(), strict=True)},
        transfer_fooled=found.transfer.get("fooled"),
        transfer_agreed=found.transfer.get("agreed"),
    )


# -- publish ---------------------------------------------------------------------------------------


def publish(run: Run, work: Work, stored: Stored, report: AuditReport, action: GateAction) -> None:
    """Carry out what the gate decided. Each decision ends the job, and once."""
    document, policy = report.model_dump(mode="json"), work.loaded.policy
    facts = escalation.facts(policy, run.claim.params, document)
    fingerprints.remember(run.resources, [work.parent.id])
    fingerprint = fingerprints.of(run.resources, stored.digest)
    with run.stage("publish", 0.98, 1.0), run.resources.database.write() as session:
        match action.action:
            case "escalate":
                escalation.escalate(session, run.claim, policy, action, document)
            case "attention":
                publishing.reject(session, run.claim, document, facts)
            case _:
                usage.pin(session, run.resources.blobs, stored.digest)
                metrics = auditing.metrics_of(report.candidate)
                reason = _how(work, report, action)
                made = publishing.publish_unlearned(
                    session, run.claim, work.batch, work.parent, stored, metrics, document, facts, reason
                )
                made.fingerprint = fingerprint
                if action.alert:
                    escalation.alert(session, run.claim.tenant_id, run.claim.id, "published")
        crash_points.point("unlearn.publish.uncommitted")


def _how(work: Work, report: AuditReport, action: GateAction) -> str | None:
    """What a request's reader should know: nothing where the policy's own method went straight through the gate."""
    if work.step == 0 and not action.alert and report.judgement.utility_kept is not False:
        return None
    return (
        f"published by step {work.step + 1} of {len(work.loaded.policy.methods)}, {work.method.name}: {action.reason}"
    )
