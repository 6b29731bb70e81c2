"""The training loop against a plain one, the fast recipe against the standard one, a warm audit against a cold.

`LETHE_BENCH_IMAGES`: a Parquet file with columns `image` (PNG or JPEG bytes under `bytes`) and `label`, such as
CIFAR-10's; without it scikit-learn's digits, enlarged. `LETHE_BENCH_DEVICE`: cpu or cuda.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from app import catalog
from app.catalog import DigitsSource, FastRecipe, ResNet18Params, RmiaParams, SgdRecipe, SmallCnnParams
from engine import evaluation, references, seeding
from engine.architectures import resnet18, small_cnn
from engine.audits import measure, roc
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Samples
from engine.data.sources import digits
from engine.data.torchvision_ops import import_torchvision
from engine.recipes import Recipe
from engine.recipes.sgd import fast, sgd
from engine.training import NullProgress, Pass, Schedule, cosine, fit

DEVICE = torch.device(os.environ.get("LETHE_BENCH_DEVICE", "cpu"))
CLASSES = (1, 6, 7, 8)
"""Of CIFAR-10: automobile, frog, horse, ship. With few images a class, ten classes leave a net at half accuracy."""
DATA = "four classes of LETHE_BENCH_IMAGES" if "LETHE_BENCH_IMAGES" in os.environ else "digits, enlarged"
BATCH, MOMENTUM, DECAY = 128, 0.9, 5e-4


@cache
def pictures(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 32, 32, 3) and labels from 0, at most `count`, classes interleaved."""
    if path := os.environ.get("LETHE_BENCH_IMAGES"):
        table = pq.read_table(path, columns=["image", "label"])
        labels = table["label"].to_numpy()
        chosen = np.flatnonzero(np.isin(labels, CLASSES))[:count]
        data = table["image"].take(chosen).combine_chunks().field("bytes")
        images = [np.asarray(Image.open(io.BytesIO(each.as_py())).convert("RGB")) for each in data]
        return np.stack(images), np.searchsorted(CLASSES, labels[chosen]).astype(np.int64)
    raw = digits(DigitsSource())
    large = raw.images[:count].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return large, raw.labels[:count]


def network(classes: int) -> nn.Module:
    """What a CPU trains in seconds, and on a GPU the paper's."""
    if DEVICE.type == "cuda":
        return resnet18.build(ResNet18Params(), 3, classes)
    return small_cnn.build(SmallCnnParams(width=16), 3, classes)


class Pictures(Dataset[tuple[Tensor, int]]):
    """As in torchvision's tutorials: an image of PIL's, transformed one by one."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        from torchvision.transforms import v2

        self.images, self.labels = [Image.fromarray(image) for image in images], labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


Run = Callable[[nn.Module, float, int], None]
"""Train a model in place at a rate for so many epochs."""


def plain(data: Pictures, workers: int, model: nn.Module, rate: float, epochs: int) -> None:
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    seen = right = total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            images, labels = images.to(DEVICE), labels.to(DEVICE)
            outputs = model(images)
            loss = functional.cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            right += (outputs.argmax(1) == labels).sum().item()
            seen += len(labels)


def ours(
    samples: Samples, positions: Tensor, precision: catalog.Precision, model: nn.Module, rate: float, epochs: int
) -> None:
    fit(
        model,
        [Pass(TrainingSet([Source(samples.images, samples.labels, positions, "crop_flip")]))],
        Schedule(epochs, rate, BATCH, MOMENTUM, DECAY, cosine(epochs), precision=precision),
        seeding.generator(int(torch.randint(2**31, ())), DEVICE),
        NullProgress(),
    )


def training() -> dict[str, object]:
    """Images a second of our loop and a plain one, training and fine-tuning: at least 1.5 times, on a GPU 5."""
    torch.set_num_threads(1)
    import_torchvision()
    images, labels = pictures(4000)
    count, rounds, rounds_with_worker = len(labels) * 2 // 3, 7, 2
    samples = Samples.from_arrays(images, labels, DEVICE)
    train, test = (torch.arange(*ends, device=DEVICE) for ends in ((0, count), (count, len(labels))))
    data = Pictures(images[:count], labels[:count])
    runs: dict[str, Run] = {
        "plain": partial(plain, data, 0),
        "plain_worker": partial(plain, data, 1),
        "ours_float32": partial(ours, samples, train, "float32"),
        "ours_bfloat16": partial(ours, samples, train, "bfloat16"),
    }
    classes = int(labels.max()) + 1
    figures: dict[str, object] = {"data": DATA, "images": count, "rounds": rounds, "device": str(DEVICE)}
    rates: dict[tuple[str, str], list[float]] = {}
    per_cpu: dict[tuple[str, str], list[float]] = {}
    accuracies: dict[tuple[str, str], list[float]] = {}
    for round_ in range(rounds):
        start = seeding.seeded_model(partial(network, classes), round_, DEVICE)
        for phase, rate, epochs in (("train", 0.03, 6), ("fine_tune", 0.01, 2)):
            first = start.state_dict()
            for name, run in runs.items():
                if name == "plain_worker" and round_ >= rounds_with_worker:
                    continue
                model = seeding.seeded_model(partial(network, classes), round_)
                model = model.to(DEVICE, memory_format=torch.contiguous_format)
                model.load_state_dict(first)
                run(model, rate, 1) if round_ == 0 and phase == "train" else None
                model.load_state_dict(first)
                torch.manual_seed(round_)
                began, cpu = _now(), time.process_time()
                run(model, rate, epochs)
                rates.setdefault((phase, name), []).append(count * epochs / (_now() - began))
                per_cpu.setdefault((phase, name), []).append(count * epochs / (time.process_time() - cpu))
                answers = evaluation.logits(model, samples.images, test)
                accuracies.setdefault((phase, name), []).append(evaluation.accuracy(answers, samples.labels[test]))
                if name == "plain":
                    start = model
    flops = _flops(classes)
    ceilings = {"ours_float32": _ceiling(torch.float32), "ours_bfloat16": _ceiling(torch.bfloat16)}
    for (phase, name), values in rates.items():
        figures[f"{phase}_{name}_images_per_s"] = statistics.median(values)
        figures[f"{phase}_{name}_test_accuracy"] = statistics.mean(accuracies[phase, name])
    passed = True
    aim = 5.0 if DEVICE.type == "cuda" else 1.5
    for phase in ("train", "fine_tune"):
        for name in ("ours_float32", "ours_bfloat16"):
            worker = statistics.median(rates[phase, "plain_worker"])
            paired = [a / max(b, worker) for a, b in _columns(rates, phase, (name, "plain"))]
            differences = [a - b for a, b in _columns(accuracies, phase, (name, "plain"))]
            figures[f"{phase}_{name}_ratio_to_the_faster_plain"] = statistics.median(paired)
            cpu_ratios = [a / b for a, b in _columns(per_cpu, phase, (name, "plain"))]
            figures[f"{phase}_{name}_ratio_of_cpu_seconds_to_plain"] = statistics.median(cpu_ratios)
            figures[f"{phase}_{name}_accuracy_difference"] = statistics.mean(differences)
            half = _half_width(differences)
            figures[f"{phase}_{name}_accuracy_half_width"] = half
            passed &= statistics.mean(differences) > -0.02 and half < 0.05
            share = (
                statistics.median((rates if DEVICE.type == "cuda" else per_cpu)[phase, name]) * flops / ceilings[name]
            )
            figures[f"{phase}_{name}_share_of_ceiling"] = share
        passed &= figures[f"{phase}_ours_bfloat16_ratio_to_the_faster_plain"] >= aim  # type: ignore[operator]
    figures |= {
        "flops_per_image": flops,
        "ceiling_float32_gflops": ceilings["ours_float32"] / 1e9,
        "ceiling_bfloat16_gflops": ceilings["ours_bfloat16"] / 1e9,
        "gate": f"ours in bfloat16 at least {aim:g} times the faster plain loop (0 or 1 workers); mean test accuracy "
        "of both precisions not lower by more than 2 points, known to within 5 (half width of the 95 % interval of the "
        "paired difference)",
        "gate_passed": bool(passed),
    }
    return figures


def _columns(table: dict[tuple[str, str], list[float]], phase: str, names: tuple[str, ...]) -> list[tuple[float, ...]]:
    return list(zip(*(table[phase, name] for name in names), strict=True))


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _flops(classes: int) -> float:
    """Floating-point operations of forward and backward, for one image, as torch counts them."""
    model = network(classes).to(DEVICE).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(8, 3, 32, 32, device=DEVICE)).sum().backward()
    return counter.get_total_flops() / 8


def _ceiling(dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of several."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    clock = _now if DEVICE.type == "cuda" else time.process_time
    a = torch.randn(size, size, device=DEVICE).to(dtype)
    seconds = []
    for _ in range(5):
        began = clock()
        a @ a
        seconds.append(clock() - began)
    return 2 * size**3 / min(seconds)


# -- the fast recipe -------------------------------------------------------------------------------


def fast_recipe() -> dict[str, object]:
    """Membership shows as much in models of the fast recipe as of the standard one, for less CPU time.

    Eight models a recipe on balanced halves, equal seeds; each is attacked with the other seven as references:
    its log-odds less the mean of the references' IN and OUT averages.
    """
    torch.set_num_threads(1)
    images, labels = pictures(4000)
    samples = Samples.from_arrays(images, labels, DEVICE)
    design = references.membership(8, samples.n, 0)
    found = {
        name: _members(samples, design, Recipe(function, params))
        for name, function, params in (("sgd", sgd, SgdRecipe()), ("fast", fast, FastRecipe()))
    }
    figures: dict[str, object] = {"data": DATA, "images_each": samples.n // 2, "models": len(design)}
    for name, (seconds, by_model) in found.items():
        figures[f"{name}_s_per_model"] = seconds
        for figure, values in by_model.items():
            figures[f"{name}_{figure}"] = statistics.mean(values)
    halves, differences = {}, {}
    for figure in ("rt_auc", "accuracy_gap", "test_accuracy"):
        apart = [quick - plain for quick, plain in zip(found["fast"][1][figure], found["sgd"][1][figure], strict=True)]
        differences[figure], halves[figure] = statistics.mean(apart), _half_width(apart)
        figures[f"difference_{figure}"] = differences[figure]
        figures[f"half_width_{figure}"] = halves[figure]
    matched = all(abs(differences[figure]) <= max(halves[figure], 0.02) for figure in ("rt_auc", "accuracy_gap"))
    ratio = found["sgd"][0] / found["fast"][0]
    return figures | {
        "ratio": ratio,
        "gate": "RT-AUC and train-test gap within their 95 % intervals or 2 points of the standard recipe's; faster",
        "gate_passed": bool(matched and differences["test_accuracy"] > -0.02 and ratio > 1),
    }


def _members(samples: Samples, design: NDArray[np.bool_], recipe: Recipe) -> tuple[float, dict[str, list[float]]]:
    labels = samples.labels.cpu().numpy()
    build = partial(small_cnn.build, SmallCnnParams(width=16), 3, int(labels.max()) + 1)
    began = time.process_time()
    signals = references.stack(
        [
            references.train_reference(number, design, samples, recipe, build, 0, NullProgress())
            for number in range(len(design))
        ]
    )
    seconds = (time.process_time() - began) / len(design)
    figures: dict[str, list[float]] = {"rt_auc": [], "accuracy_gap": [], "test_accuracy": []}
    right = signals.logits.argmax(2) == labels
    for number, row in enumerate(design):
        odds, seen = np.delete(signals.log_odds, number, 0), np.delete(design, number, 0)
        inside, outside = (np.where(side, odds, 0).sum(0) / side.sum(0) for side in (seen, ~seen))
        scores = (signals.log_odds[number] - (inside + outside) / 2).astype(np.float64)
        figures["rt_auc"].append(roc.auc(scores[row], scores[~row]))
        figures["accuracy_gap"].append(float(right[number, row].mean() - right[number, ~row].mean()))
        figures["test_accuracy"].append(float(right[number, ~row].mean()))
    return seconds, figures


def _half_width(values: list[float]) -> float:
    """Of the mean's 95 % t interval."""
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


# -- warm and cold audits --------------------------------------------------------------------------


def audit_warm() -> dict[str, object]:
    """An audit whose references' signals are there against one that trains its references: at least 50 times."""
    torch.set_num_threads(1)
    raw = digits(DigitsSource())
    samples = Samples.from_arrays(raw.images, raw.labels, DEVICE)
    build = partial(small_cnn.build, SmallCnnParams(), 1, 10)
    train, holdout = np.flatnonzero(~raw.holdout), np.flatnonzero(raw.holdout)
    recipe = Recipe(sgd, SgdRecipe())
    model = seeding.seeded_model(build, 1, DEVICE)
    positions = torch.from_numpy(train).to(DEVICE)
    recipe.train(model, samples, positions, seeding.generator(1, DEVICE), NullProgress())
    models = 16
    design = references.membership(models, samples.n, 0)
    began = _now()
    signals = references.stack(
        [
            references.train_reference(number, design, samples, recipe, build, 0, NullProgress())
            for number in range(models)
        ]
    )
    trained = _now() - began

    def audit() -> object:
        logits = evaluation.logits(model, samples.images).cpu().numpy()
        forget, remain = train[:90], train[90:]
        return measure.audit(logits, logits, raw.labels, forget, remain, holdout, signals, RmiaParams())

    audit()
    seconds = []
    for _ in range(5):
        began = _now()
        audit()
        seconds.append(_now() - began)
    warm = statistics.median(seconds)
    return {
        "references": models,
        "samples": samples.n,
        "training_references_s": trained,
        "warm_audit_s": warm,
        "ratio": (trained + warm) / warm,
        "gate": "at least 50",
        "gate_passed": (trained + warm) / warm >= 50,
    }
