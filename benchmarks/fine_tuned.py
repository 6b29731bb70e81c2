"""A fine-tuned model: a reference of a linear probe beside a full one, and an attack on ViT-B/16 at 224 pixels."""

from __future__ import annotations

import resource
import time

import torch
from torch import Tensor

from app.catalog import FineTunedRecipe, LinearProbeRecipe, PgdL2Params, TorchvisionParams
from engine import places, seeding, training
from engine.architectures import heads, torchvision_model
from engine.attacks.watching import watched
from engine.data.samples import Samples
from engine.recipes.fine_tuned import fine_tuned, linear_probe

CLASSES, SIDE = 10, 64


def linear_probe_reference() -> dict[str, object]:
    """Seconds of one reference model of a ResNet-18 at 64 pixels: the whole network, or a head on kept features."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (512, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (512,), generator=generator)
    samples, rows = Samples.from_arrays(images.numpy(), labels.numpy()), torch.arange(512)
    params = TorchvisionParams(name="resnet18")

    def model() -> torch.nn.Module:
        made = seeding.seeded_model(lambda: torchvision_model.build(params, 3, CLASSES, (SIDE, SIDE)), 0)
        return heads.mark(made, ("fc.weight", "fc.bias"))

    epochs, found = 10, {}
    full, probe = FineTunedRecipe(epochs=epochs, batch_size=64), LinearProbeRecipe(epochs=epochs)
    for name, train, recipe in (("full", fine_tuned, full), ("probe", linear_probe, probe)):
        network, start = model(), time.process_time()
        train(network, recipe, samples, rows, seeding.generator(1), training.NullProgress())  # type: ignore[operator]
        found[name] = time.process_time() - start
    return {
        "samples": 512,
        "epochs": epochs,
        "full_cpu_seconds": found["full"],
        "probe_cpu_seconds": found["probe"],
        "share": found["probe"] / found["full"],
        "gate": "at most a tenth",
        "gate_passed": found["probe"] <= 0.1 * found["full"],
    }


class Enough(Exception):
    """What was to be seen of the attack has been seen."""


def attack_on_vit() -> dict[str, object]:
    """When an attack on ViT-B/16 at 224 pixels first says a share, and a share that makes a forecast; its memory.

    Of a job the attack is the first 40 percent, and a forecast is shown from 0.1 percent of the job on.
    """
    count, watched_seconds = 4, 30.0
    before = _peak()
    params = TorchvisionParams(name="vit_b_16")
    model = torchvision_model.build(params, 3, CLASSES, (224, 224))
    loaded = _peak()
    images: Tensor = torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)  # so that each has to be searched for
    attack, asked = places.attack("pgd_l2"), PgdL2Params()
    seen: list[tuple[float, float]] = []
    start = time.perf_counter()

    def update(share: float) -> None:
        seen.append((time.perf_counter() - start, share))
        if seen[-1][0] > watched_seconds:
            raise Enough

    try:
        with watched(model, count, asked.passes, update):
            attack(model, images, labels, asked)
    except Enough:
        pass
    forecast = next((at for at, share in seen if 0.4 * share >= 0.001), None)
    return {
        "images": count,
        "cores": torch.get_num_threads(),
        "first_share_seconds": seen[0][0],
        "first_forecast_seconds": forecast,
        "shares_in_30_s": len(seen),
        "share_after_30_s": seen[-1][1],
        "peak_mib_before": before,
        "peak_mib_with_network": loaded,
        "peak_mib_under_attack": _peak(),
        "gate": "a share and a forecast within 5 s",
        "gate_passed": bool(seen[0][0] <= 5 and forecast is not None and forecast <= 5),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
