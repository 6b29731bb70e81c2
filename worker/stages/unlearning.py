"""Train a model, or make it unlearn: recipe, attack and method on the samples that they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from math import ceil

import numpy as np
from torch import nn

from app import catalog
from app.blobs.folder import Stored
from app.core.positions import Positions, pack
from app.rules.policy import Choice, Policy
from engine import places, seeding
from engine.attacks import AttackResult, held_in
from engine.attacks.watching import watched
from engine.data.samples import Split, gather, to_float
from engine.memory import within_memory
from engine.methods import MethodContext
from engine.training import NullProgress, Progress
from worker.runtime.run import JobError, Run
from worker.stages.loaded import LoadedModel

CPU_VALUES = 2**21
"""Of a batch of images under attack on a CPU, which has no end of memory that it would say before it ends the process:
all 512 of 32 pixels, 13 of 224."""


def train_on(run: Run, loaded: LoadedModel, positions: Positions, seed: int | None = None) -> Stored:
    """Train from random weights on `positions`, with the model's recipe, and store it. seed: the job's if None."""
    seed = run.claim.seed if seed is None else seed
    if not len(positions):
        raise JobError("no-training-data", "no sample is left to train on")
    base = hashlib.sha256(pack(positions)).hexdigest()
    with run.stage("train", 0.0, 0.95) as progress:
        if kept := run.stored("candidate", base):
            return Stored(kept[0], kept[1]["size"])
        model = loaded.fresh(seeding.derive(seed, "weights"))
        generator = seeding.generator(seeding.derive(seed, "order"), run.resources.device)
        resumable = progress.part(0.0, 1.0, f"train:{base}")
        loaded.recipe.train(model, loaded.samples, loaded.on_device(positions), generator, resumable)
        stored = run.put(partial(loaded.save, model))
        run.keep("candidate", base, stored)
    return stored


def attacked(
    loaded: LoadedModel,
    model: nn.Module,
    positions: Positions,
    choice: Choice,
    given: Callable[[catalog.Params], AttackResult] | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Run an attack on the samples at `positions`. given: finds another version's set, for attacks that need one."""
    params = places.parse("attacks", choice.name, choice.params)
    where = loaded.on_device(positions)
    images, labels = to_float(gather(loaded.samples.images, where)), loaded.samples.labels[where]
    attack = places.attack(choice.name)
    more = [given(params)] if given else []

    def in_batches(size: int) -> AttackResult:
        found = attack(model, images, labels, params.model_copy(update={"batch_size": size}), *more)
        # Another version's examples need not fool this model.
        return found if more else held_in(model, images, labels, found, loaded.recipe.precision, size)

    size = params.model_dump()["batch_size"]
    if loaded.resources.device.type == "cpu":
        size = min(size, max(1, CPU_VALUES // images.shape[1:].numel()))
    with watched(model, len(positions), getattr(params, "passes", None), (progress or NullProgress()).update):
        return within_memory(in_batches, size)[0]


def unlearned(
    loaded: LoadedModel,
    model: nn.Module,
    method: Choice,
    forget: Positions,
    remain: Positions,
    adversarial: AttackResult | None,
    seed: int,
    progress: Progress,
) -> nn.Module:
    """Unlearn `forget` from `model` by `method`. remain: what the method may see of the remain set."""
    split = Split(
        loaded.samples,
        forget=loaded.on_device(forget),
        remain=loaded.on_device(remain),
        holdout=loaded.on_device(loaded.reserved),
    )
    device = loaded.samples.labels.device
    context = MethodContext(
        generator=seeding.generator(seeding.derive(seed, "finetune"), device),
        progress=progress,
        recipe=loaded.recipe,
        fresh=lambda: loaded.fresh(seeding.derive(seed, "weights")),
    )
    params = places.parse("methods", method.name, method.params)
    return places.method(method.name)(model, split, params, adversarial, context)


def remain_access(policy: Policy, forget: Positions, remain: Positions, seed: int) -> Positions:
    """What the policy lets a method see of the remain set: all, a number for each forgotten sample, or nothing."""
    if policy.remain == "full":
        return remain
    count = min(len(remain), ceil(policy.remain_ratio * len(forget)))
    draw = np.random.default_rng(seeding.derive(seed, "remain"))
    return np.sort(draw.choice(remain, count if policy.remain == "subsample" else 0, replace=False))
