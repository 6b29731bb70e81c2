"""The attack against a closed form, and in one batch against one sample at a time."""

from __future__ import annotations

import time

import torch
from torch import nn

from app.catalog import DigitsSource, PgdL2Params, SgdRecipe, SmallCnnParams
from engine import seeding, training
from engine.architectures import small_cnn
from engine.attacks.pgd_l2 import pgd_l2
from engine.data.samples import Samples, to_float
from engine.data.sources import digits
from engine.recipes.sgd import sgd


def closed_form() -> dict[str, object]:
    """On a linear model the nearest point of another class is known: every sample within 1.25 times of it."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    n, classes, side = 512, 10, 8
    linear = nn.Linear(side * side, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator))
        linear.bias.zero_()
    model = nn.Sequential(nn.Flatten(), linear)
    # In the middle of the pixel range no clipping interferes with the closed form.
    images = 0.5 + 0.1 * torch.randn((n, 1, side, side), generator=generator).clamp(-1, 1)
    logits = model(images).detach()
    labels = logits.argmax(1)
    weight = linear.weight.detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    lengths = (weight[labels][:, None] - weight[None]).norm(dim=2)
    distance = (gaps / lengths).masked_fill(nn.functional.one_hot(labels, classes).bool(), torch.inf).amin(1)
    result = pgd_l2(model, images, labels, PgdL2Params())
    ratio = result.norms / distance
    fooled = bool((model(result.images).argmax(1) != labels).all())
    return {
        "samples": n,
        "found": int(result.found.sum()),
        "mean_ratio_to_optimum": float(ratio.mean()),
        "worst_ratio_to_optimum": float(ratio.max()),
        "gate": "all found, in order, all misclassified, worst ratio at most 1.25",
        "gate_passed": bool(result.found.all() and fooled and ratio.max() <= 1.25),
    }


def batched() -> dict[str, object]:
    """Time per sample, whole set at once against one at a time, on a trained network: at least 5 times faster."""
    torch.set_num_threads(1)
    raw = digits(DigitsSource())
    samples = Samples.from_arrays(raw.images, raw.labels)
    model = seeding.seeded_model(lambda: small_cnn.build(SmallCnnParams(), 1, 10), 0)
    train = torch.from_numpy((~raw.holdout).nonzero()[0])
    sgd(model, SgdRecipe(epochs=10), samples, train, seeding.generator(0), training.NullProgress())
    images, labels = to_float(samples.images[train[:256]]), samples.labels[train[:256]]
    params = PgdL2Params()
    pgd_l2(model, images[:8], labels[:8], params)
    start = time.process_time()
    together = pgd_l2(model, images, labels, params)
    whole = (time.process_time() - start) / len(images)
    few = 32
    start = time.process_time()
    for index in range(few):
        pgd_l2(model, images[index : index + 1], labels[index : index + 1], params)
    single = (time.process_time() - start) / few
    return {
        "batched_cpu_ms_per_sample": 1000 * whole,
        "single_cpu_ms_per_sample": 1000 * single,
        "ratio": single / whole,
        "found": f"{int(together.found.sum())} of {len(images)}",
        "gate": "all found, ratio at least 5",
        "gate_passed": bool(together.found.all() and single / whole >= 5),
    }
