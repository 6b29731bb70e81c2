"""Fine-tuning on more images than the memory that the process may have.

`python -m benchmarks.mapped FILE` is the process that is measured: it may have 2 GiB of memory of its own (RLIMIT_DATA,
which the mapped file is no part of), and its peak of resident memory, pages of the file included, is reported.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

SIDE, CLASSES = 128, 10
COUNT = -(-(2**32) // (SIDE * SIDE * 3))
MOST = 2**31


def mapped_fine_tune() -> dict[str, object]:
    """Fine-tune one epoch on a 4 GiB file of images, at most 2 GiB resident."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        _write(path)
        command = [sys.executable, "-m", "benchmarks.mapped", str(path)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    kept = figures["peak_resident_gib"] <= MOST / 2**30 < figures["file_gib"] / 1.9
    return {
        **figures,
        "gate": "4 GiB fine-tuned with 2 GiB of own memory (RLIMIT_DATA), at most 2 GiB resident, better than chance",
        "gate_passed": bool(kept and figures["accuracy"] > 2 / CLASSES),
    }


def _write(path: Path) -> None:
    """Noise that is the brighter the higher the label, class by class in turn."""
    random = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(COUNT, SIDE, SIDE, 3))
    noise = random.integers(0, 128, (CLASSES * 10, SIDE, SIDE, 3), dtype=np.uint8)
    noise += (np.arange(len(noise)) % CLASSES * 12).astype(np.uint8)[:, None, None, None]
    for start in range(0, COUNT, len(noise)):
        file[start : start + len(noise)] = noise[: COUNT - start]
    file.flush()


def _fine_tune(path: Path) -> dict[str, object]:
    import torch

    from app import catalog
    from engine import evaluation, seeding
    from engine.architectures import vit
    from engine.data.samples import Samples, Split
    from engine.methods import MethodContext
    from engine.methods.fine_tune import fine_tune
    from engine.recipes import Recipe
    from engine.recipes.sgd import sgd
    from engine.training import NullProgress

    torch.set_num_threads(1)
    build = partial(vit.build, catalog.VitParams(patch=32, width=64, depth=1, heads=2), 3, CLASSES, (SIDE, SIDE))
    samples = Samples.open(path, np.arange(COUNT) % CLASSES, resident=False)
    everyone = torch.randperm(COUNT, generator=seeding.generator(1))
    split = Split(samples, everyone[:1000], everyone[1000:], everyone[:0])
    recipe = Recipe(sgd, catalog.SgdRecipe())
    context = MethodContext(seeding.generator(2), NullProgress(), recipe, partial(seeding.seeded_model, build, 0))
    params = catalog.FineTuneParams(epochs=1, learning_rate=0.05, batch_size=256)
    began, cpu = time.perf_counter(), time.process_time()
    model = fine_tune(context.fresh(), split, params, None, context)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    answers = evaluation.logits(model, samples.images, split.forget)
    return {
        "images": COUNT,
        "file_gib": path.stat().st_size / 2**30,
        "peak_resident_gib": _peak_resident() / 2**30,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images_per_s": len(split.remain) / seconds,
        "accuracy": evaluation.accuracy(answers, samples.labels[split.forget]),
    }


def _peak_resident() -> int:
    """Bytes; `getrusage` would count what the process that started this one had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MOST, MOST))
    print(json.dumps(_fine_tune(Path(sys.argv[1]))))
