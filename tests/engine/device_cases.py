"""Runs everything of the engine on a pretended device and prints how often the host waited: see `test_device_rules`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from app import catalog
from engine import places, seeding
from engine.architectures import small_cnn
from engine.attacks import AttackResult
from engine.attacks.ffgsm import ffgsm
from engine.audits.relearn import relearn
from engine.audits.robust import robust_accuracy
from engine.data.samples import Samples, Split, gather, to_float
from engine.methods import MethodContext
from engine.recipes import Recipe, spectral_clipping
from engine.training import NullProgress
from tests.catalog_cases import own
from tests.engine.pretended_device import NAME, MixedDevicesError, Pretended

BATCHES = (32, 16)
N, FORGOTTEN, HOLDOUT = 96, 32, 16
RECIPES = {"sgd": {"augment": "crop_flip"}, "spectral_clipping": {"bound": 1e3, "every": 1000}}  # a clip waits


def network() -> nn.Module:
    return small_cnn.build(catalog.SmallCnnParams(width=4), 1, 4)


def fresh() -> nn.Module:
    return seeding.seeded_model(network, 3, NAME)


def samples() -> Samples:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)
    return Samples.from_arrays(images, random.integers(0, 4, N), NAME)


def parsed(kind: str, name: str, batch: int, **given: object) -> catalog.Params:
    entry = catalog.find(kind, name)
    batches = {"batch_size": batch} if "batch_size" in entry.params.model_fields else {}
    return catalog.parse(kind, name, {**entry.example, **batches, **given})


def split_of(them: Samples) -> Split:
    rows = torch.arange(N, device=NAME)
    return Split(them, rows[:FORGOTTEN], rows[FORGOTTEN:-HOLDOUT], rows[-HOLDOUT:])


def recipe(name: str, batch: int) -> None:
    params = parsed("recipes", name, batch, **RECIPES.get(name, {}))
    them = samples()
    Recipe(places.recipe(name), params).train(
        fresh(), them, torch.arange(N, device=NAME), seeding.generator(1, NAME), NullProgress()
    )


def found(them: Samples) -> AttackResult:
    images = to_float(gather(them.images, torch.arange(FORGOTTEN, device=NAME)))
    return ffgsm(fresh(), images, them.labels[:FORGOTTEN], catalog.FfgsmParams(step=0.5, starts=1))


def method(name: str, batch: int) -> None:
    them = samples()
    params = parsed("methods", name, batch)
    own = Recipe(places.recipe("sgd"), parsed("recipes", "sgd", batch, augment="crop_flip"))
    context = MethodContext(seeding.generator(1, NAME), NullProgress(), own, fresh)
    places.method(name)(fresh(), split_of(them), params, found(them), context)


def attack(name: str, batch: int) -> None:
    them = samples()
    images, given = to_float(them.images), [found(them)] if catalog.ATTACKS[name].needs_given else []
    if given:
        images = images[:FORGOTTEN]
    params = parsed("attacks", name, batch)
    places.attack(name)(fresh(), images, them.labels[: len(images)], params, *given)


def architecture(name: str) -> None:
    """Forward and back."""
    build = places.architecture(name)
    params = catalog.parse("architectures", name, catalog.ARCHITECTURES[name].example)
    model = seeding.seeded_model(lambda: build(params, 3, 4, (32, 32)), 1, NAME)
    model(torch.rand(2, 3, 32, 32, device=NAME)).sum().backward()


def probed() -> None:
    """What probes compute, and a clip."""
    them, model = samples(), fresh()
    everything = torch.arange(N, device=NAME)
    spectral_clipping.Layers(model, them.shape, seeding.generator(1, NAME)).clip(0.1, 1)
    robust_accuracy(model, them, everything, catalog.RobustParams(steps=2))
    relearn(model, them, everything, catalog.RelearnParams(most_steps=2), seeding.generator(1, NAME), 0.0)


def refuses(work: Callable[[], object]) -> list[int]:
    try:
        work()
    except MixedDevicesError:
        return [1]
    return [0]


def main() -> None:
    with Pretended() as device:
        seeding.generator = device.generator

        def counted(work: Callable[[], object]) -> int:
            before = device.waits
            work()
            return device.waits - before

        waits: dict[str, dict[str, list[int]]] = {
            kind: {name: [counted(partial(run, name, batch)) for batch in BATCHES] for name in catalog.KINDS[kind]}
            for kind, run in {"recipes": recipe, "methods": method, "attacks": attack}.items()
        }
        waits["architectures"] = {name: [counted(partial(architecture, name))] for name in own("architectures")}
        probed()
        there, here = torch.arange(4.0, device=NAME), torch.arange(4.0)
        waits["refused"] = {
            "tensors": refuses(lambda: there + here),
            "values": refuses(lambda: there.index_put_((there[:2].long(),), here[:2])),
            "generator": refuses(lambda: torch.randperm(4, device=NAME, generator=seeding.generator(1))),
        }
        waits["seen"] = {
            "item": [counted(lambda: there[1].item())],
            "nonzero": [counted(there.nonzero)],
            "mask": [counted(lambda: there[there > 1])],
            "cpu": [counted(there.cpu)],
            "sum": [counted(there.sum)],
        }
    print(json.dumps(waits))


if __name__ == "__main__":
    main()
