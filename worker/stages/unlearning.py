"""One model taught, or made to forget: recipe, attack and method on whatever samples they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import ceil

import numpy as np
from torch import nn

from app import catalog
from app.blobs.folder import Stored
from app.core.positions import Positions, pack
from app.rules.policy import Choice, Policy
from engine import places, seeding
from engine.attacks import AttackResult
from engine.data.samples import Split, gather, to_float
from engine.memory import within_memory
from engine.methods import MethodContext
from engine.training import Progress
from worker.runtime.run import JobError, Run
from worker.stages.loaded import Workpiece, seed_for


def train_on(run: Run, piece: Workpiece, positions: Positions) -> Stored:
    """Train from random weights on `positions`, with the model's recipe, and store the result."""
    if not len(positions):
        raise JobError("no-training-data", "no sample is left to train on")
    base = hashlib.sha256(pack(positions)).hexdigest()
    with run.stage("train", 0.0, 0.95) as progress:
        if kept := run.stored("candidate", base):
            return Stored(kept[0], kept[1]["size"])
        model = piece.fresh(seed_for(run, "weights"))
        generator = seeding.generator(seed_for(run, "order"), run.desk.device)
        resumable = progress.part(0.0, 1.0, f"train:{base}")
        piece.recipe.train(model, piece.samples, piece.on_device(positions), generator, resumable)
        stored = piece.store(run, model)
        run.keep("candidate", base, stored)
    return stored


def attacked(
    piece: Workpiece,
    model: nn.Module,
    positions: Positions,
    choice: Choice,
    given: Callable[[catalog.Params], AttackResult] | None = None,
) -> AttackResult:
    """Run an attack on the samples at `positions`. `given`: finds another version's set, for attacks that need one."""
    params = places.parse("attacks", choice.name, choice.params)
    where = piece.on_device(positions)
    images, labels = to_float(gather(piece.samples.images, where)), piece.samples.labels[where]
    attack = places.attack(choice.name)
    more = [given(params)] if given else []

    def in_batches(size: int) -> AttackResult:
        return attack(model, images, labels, params.model_copy(update={"batch_size": size}), *more)

    return within_memory(in_batches, params.model_dump()["batch_size"])[0]


def forgotten(
    piece: Workpiece,
    model: nn.Module,
    method: Choice,
    forget: Positions,
    remain: Positions,
    adversarial: AttackResult | None,
    seed: int,
    progress: Progress,
) -> nn.Module:
    """Let `model` forget by `method`. `remain`: what the method may see of the remain set."""
    split = Split(
        piece.samples,
        forget=piece.on_device(forget),
        remain=piece.on_device(remain),
        holdout=piece.on_device(piece.holdout),
    )
    device = piece.samples.labels.device
    context = MethodContext(
        generator=seeding.generator(seeding.derive(seed, "finetune"), device),
        progress=progress,
        recipe=piece.recipe,
        fresh=lambda: piece.fresh(seeding.derive(seed, "weights")),
    )
    params = places.parse("methods", method.name, method.params)
    return places.method(method.name)(model, split, params, adversarial, context)


def remain_access(policy: Policy, forget: Positions, remain: Positions, seed: int) -> Positions:
    """What the policy lets a method see of the remain set: all, so many for each forgotten sample, or nothing."""
    if policy.remain == "full":
        return remain
    count = min(len(remain), ceil(policy.remain_ratio * len(forget)))
    draw = np.random.default_rng(seeding.derive(seed, "remain"))
    return np.sort(draw.choice(remain, count if policy.remain == "subsample" else 0, replace=False))
