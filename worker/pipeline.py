"""The product: one unlearn job, read top to bottom.

    attack     an adversarial example of each forget sample, on the current version (AMUN-A) or the base (AMUN)
    finetune   the policy's method edits the parent into a candidate
    audit      the candidate, reloaded from its digest, is measured against references, parent and controls
    publish    one fenced transaction: version, report, outcomes, events

Each stage stores what it made, so that another worker goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select

from app import catalog, erasure, faults, versions
from app.policy import Policy
from app.positions import Positions, pack, unpack
from app.reports import Adversarial, AuditReport, Judgement, Measurement, References
from app.storage import Stored
from app.tables import AdversarialRow, Dataset, Model, Version
from app.versions import Batch
from worker import evaluation, registry, seeding
from worker.attacks import AttackResult
from worker.data.samples import Split, gather, to_float
from worker.methods import MethodContext
from worker.run import JobError, Run
from worker.workpiece import Workpiece, seed_for

NOT_SHOWN = [
    "that no other attack could tell the forgotten samples apart: only the attack named here was run",
    "that backups, logs or copies outside this service are gone",
    "anything about one forgotten sample by itself: the figures are averages, but for the worst p-value",
]


@dataclass(frozen=True)
class Work:
    """What an unlearn job starts from."""

    piece: Workpiece
    parent: Version
    batch: Batch

    @property
    def base(self) -> str:
        """Names all that a stage's result depends on: a request that was refused meanwhile makes it another."""
        found = hashlib.sha256(self.parent.digest.encode())
        for part in (pack(self.batch.forget), pack(self.batch.remain), self.piece.policy.model_dump_json().encode()):
            found.update(hashlib.sha256(part).digest())
        return found.hexdigest()


def unlearn(run: Run) -> None:
    work = _load(run)
    if work is None or not len(work.batch.forget):
        with run.desk.database.write() as session:
            versions.nothing_to_forget(session, run.claim)
        return
    adversarial, source = attack(run, work)
    stored = finetune(run, work, adversarial)
    report = audit(run, work, stored, adversarial, source)
    publish(run, work, stored, report)


def _load(run: Run) -> Work | None:
    """None: the model has no version, so nothing was learned. Its training came before this job, and has ended."""
    piece = Workpiece.load(run)
    with run.desk.database.read() as session:
        model = session.get_one(Model, piece.model_id)
        parent = versions.current(session, model)
        if parent is None:
            return None
        batch = versions.batch(session, run.claim.id, session.get_one(Dataset, piece.dataset_id), parent)
    return Work(piece, parent, batch)


# -- attack ----------------------------------------------------------------------------------------


def attack(run: Run, work: Work) -> tuple[AttackResult | None, str]:
    """The adversarial set D_A, aligned with the forget set; None for a method that needs none.

    Returns the set and where it comes from: `recompute` or `precomputed`.
    """
    policy = work.piece.policy
    if not catalog.METHODS[policy.method.name].needs_adversarial:
        return None, policy.adversarial
    with run.stage("attack", 0.0, 0.4):
        if kept := run.stored("adversarial", work.base):
            return AttackResult(**run.tensors(kept[0])), str(kept[1]["source"])
        source = policy.adversarial
        result = precomputed(run, work) if source == "precomputed" else None
        if result is None:
            source = "recompute"
            result = attack_positions(run, work.piece, work.parent, work.batch.forget)
        stored = run.put_tensors(vars(result))
        run.keep("adversarial", work.base, stored, source=source)
    return result, source


def attack_positions(run: Run, piece: Workpiece, base: Version, positions: Positions) -> AttackResult:
    """Run the policy's attack on the samples at `positions` against version `base`."""
    choice = piece.policy.attack
    params = catalog.parse("attacks", choice.name, choice.params)
    where = piece.on_device(positions)
    images, labels = to_float(gather(piece.samples.images, where)), piece.samples.labels[where]
    attack = registry.ATTACKS[choice.name]
    if not catalog.ATTACKS[choice.name].needs_given:
        return attack(piece.restore(run, base.digest), images, labels, params)
    version = getattr(params, "version", None)
    given = kept_set(run, piece, positions, lambda row: version in (None, row.version))
    if given is None:
        raise JobError("no-adversarial-set", "no adversarial set of another version covers the forget set")
    return attack(piece.restore(run, base.digest), images, labels, params, given=given)


def precomputed(run: Run, work: Work) -> AttackResult | None:
    """The forget set's rows of a precomputed set, or None where none covers them all: then it is recomputed."""
    choice = work.piece.policy.attack

    def same(row: AdversarialRow) -> bool:
        return row.attack == choice.name and row.attack_params == choice.params

    return kept_set(run, work.piece, work.batch.forget, same)


def kept_set(
    run: Run, piece: Workpiece, positions: Positions, fits: Callable[[AdversarialRow], bool]
) -> AttackResult | None:
    """Rows for `positions`, in their order, of the oldest kept set of the model that fits and covers them all."""
    with run.desk.database.read() as session:
        query = select(AdversarialRow).where(AdversarialRow.model_id == piece.model_id).order_by(AdversarialRow.id)
        for row in session.scalars(query):
            covered = unpack(row.positions)
            if fits(row) and np.isin(positions, covered).all():
                digest = row.digest
                break
        else:
            return None
    rows = piece.on_device(np.searchsorted(covered, positions))
    return AttackResult(**{name: tensor[rows] for name, tensor in run.tensors(digest).items()})


# -- finetune --------------------------------------------------------------------------------------


def finetune(run: Run, work: Work, adversarial: AttackResult | None) -> Stored:
    """Edit the parent into a candidate by the policy's method, and store it."""
    piece, policy = work.piece, work.piece.policy
    with run.stage("finetune", 0.4, 0.8) as progress:
        if kept := run.stored("candidate", work.base):
            return Stored(kept[0], kept[1]["size"])
        remain = remain_access(policy, work.batch, seed_for(run, "remain"))
        split = Split(
            piece.samples,
            forget=piece.on_device(work.batch.forget),
            remain=piece.on_device(remain),
            holdout=piece.on_device(piece.holdout),
        )
        context = MethodContext(
            generator=seeding.generator(seed_for(run, "finetune"), run.desk.device),
            progress=progress.part(0.0, 1.0, f"finetune:{work.base}"),
            recipe=piece.recipe,
            fresh=lambda: piece.fresh(seed_for(run, "weights")),
        )
        model = registry.METHODS[policy.method.name](
            piece.restore(run, work.parent.digest),
            split,
            catalog.parse("methods", policy.method.name, policy.method.params),
            adversarial,
            context,
        )
        stored = piece.store(run, model)
        run.keep("candidate", work.base, stored)
    return stored


def remain_access(policy: Policy, batch: Batch, seed: int) -> Positions:
    """What the policy lets the method see of the remain set: all, so many for each forgotten sample, or nothing."""
    if policy.remain == "full":
        return batch.remain
    count = min(len(batch.remain), ceil(policy.remain_ratio * len(batch.forget)))
    chosen = np.random.default_rng(seed).choice(
        batch.remain, count if policy.remain == "subsample" else 0, replace=False
    )
    return np.sort(chosen)


# -- audit -----------------------------------------------------------------------------------------


def audit(run: Run, work: Work, stored: Stored, adversarial: AttackResult | None, source: str) -> AuditReport:
    """Measure the candidate as it was stored, not as it lies in memory."""
    with run.stage("audit", 0.8, 0.98):
        policy = work.piece.policy
        measured = measure(
            run,
            work.piece,
            stored.digest,
            work.parent.digest,
            work.batch.forget,
            work.batch.remain,
            grouped=work.batch.grouped,
        )
    return report_of(
        run,
        work.piece,
        stored,
        measured,
        parent=work.parent.digest,
        method=(policy.method.name, policy.method.params),
        forget=work.batch.forget,
        remain=work.batch.remain,
        adversarial=_describe(policy.attack.name, source, adversarial),
    )


@dataclass(frozen=True)
class Measured:
    candidate: Measurement
    parent: Measurement | None
    balance: Any
    judgement: Judgement
    references: References | None


def measure(
    run: Run,
    piece: Workpiece,
    candidate: str,
    parent: str | None,
    forget: Positions,
    remain: Positions,
    *,
    grouped: bool,
) -> Measured:
    """Run the policy's audit on two stored checkpoints. `grouped`: the forget set is one or more people's own."""
    choice = piece.policy.audit
    params = catalog.parse("audits", choice.name, choice.params)
    references = piece.pool_signals(run)
    before = _logits(run, piece, parent) if parent else None
    floor = None
    if before is not None and len(piece.holdout):
        right = before[piece.holdout].argmax(axis=1) == piece.labels[piece.holdout]
        floor = float(right.mean()) - piece.policy.utility_floor
    result = registry.AUDITS[choice.name](
        _logits(run, piece, candidate),
        before,
        piece.labels,
        forget,
        remain,
        piece.holdout,
        references,
        params,
        utility_floor=floor,
        grouped=grouped,
    )
    signal = str(choice.params.get("signal", choice.name))
    pool = References(models=len(references.membership), signal=signal) if references else None
    return Measured(*result, references=pool)


def _logits(run: Run, piece: Workpiece, digest: str) -> NDArray[np.float32]:
    """(N, classes) of every sample of the dataset, by the checkpoint of that digest."""
    values: NDArray[np.float32] = evaluation.logits(piece.restore(run, digest), piece.samples.images).cpu().numpy()
    return values


def report_of(
    run: Run,
    piece: Workpiece,
    stored: Stored,
    measured: Measured,
    *,
    parent: str | None,
    method: tuple[str, dict[str, Any]],
    forget: Positions,
    remain: Positions,
    adversarial: Adversarial | None = None,
) -> AuditReport:
    return AuditReport(
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=piece.model_id,
        version=None,
        checkpoint=stored.digest,
        parent_checkpoint=parent,
        method=method[0],
        method_params=method[1],
        remain_access=piece.policy.remain,
        forget_samples=len(forget),
        retain_samples=len(remain),
        test_samples=len(piece.holdout),
        audit=piece.policy.audit.name,
        audit_params=piece.policy.audit.params,
        candidate=measured.candidate,
        parent=measured.parent,
        balance=measured.balance,
        judgement=measured.judgement,
        references=measured.references,
        adversarial=adversarial,
        seed=run.claim.seed,
        stage_seconds=run.stage_seconds,
        environment=seeding.environment(run.desk.device),
        not_shown=NOT_SHOWN,
    )


def _describe(attack: str, source: str, result: AttackResult | None) -> Adversarial | None:
    if result is None:
        return None
    found = result.found.cpu()
    radii, counts = torch.unique(result.radii.cpu()[found], return_counts=True)
    return Adversarial(
        attack=attack,
        policy="precomputed" if source == "precomputed" else "recompute",
        found=int(found.sum()),
        total=len(found),
        mean_norm=float(result.norms.cpu()[found].mean()) if found.any() else None,
        radius_counts={f"{radius:.4g}": count for radius, count in zip(radii.tolist(), counts.tolist(), strict=True)},
    )


# -- publish ---------------------------------------------------------------------------------------


def publish(run: Run, work: Work, stored: Stored, report: AuditReport) -> None:
    """The verdict decides: a fail of an approximate method publishes nothing."""
    document = report.model_dump(mode="json")
    exact = catalog.METHODS[report.method].exact
    with run.stage("publish", 0.98, 1.0), run.desk.database.write() as session:
        erasure.pin(session, run.desk.blobs, stored.digest)
        if report.judgement.verdict == "fail" and not exact:
            versions.reject(session, run.claim, document)
        else:
            versions.publish_unlearned(
                session, run.claim, work.batch, work.parent, stored, metrics_of(report.candidate), document
            )
        faults.point("unlearn.publish.uncommitted")


def metrics_of(measured: Measurement) -> dict[str, Any]:
    """The figures that a version shows in lists."""
    figures = measured.model_dump(include={"accuracy_forget", "accuracy_retain", "accuracy_test"})
    return figures | {"ft_auc": measured.ft_auc.value if measured.ft_auc else None}
