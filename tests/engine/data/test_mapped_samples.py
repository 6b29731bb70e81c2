"""Samples that stay in their file: the same bits, a fraction of the memory."""

import mmap
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from app.catalog import SgdRecipe
from engine import evaluation, host, memory, seeding
from engine.data.batches import Source, TrainingSet
from engine.data.samples import Samples, gather
from engine.recipes import Recipe
from engine.recipes.sgd import sgd
from engine.training import NullProgress
from tests.engine.cases import digits, same, small_network, train_positions

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "images.npy", digits()[0].images)
    return tmp_path / "images.npy"


@pytest.fixture
def on_disk():
    """A folder that is certainly not in memory, where a mapped page of a file would count as taken."""
    with TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def both(file):
    labels = digits()[0].labels
    return Samples.open(file, labels, resident=True), Samples.open(file, labels, resident=False)


def test_mapped_samples_are_those_of_the_file_and_outlive_its_name(file):
    resident, mapped = both(file)
    assert (resident.mapped, mapped.mapped) == (False, True)
    file.unlink()
    assert torch.equal(mapped.images, digits()[1].images)
    assert mapped.shape == (1, 8, 8)
    assert torch.equal(gather(mapped.images, torch.tensor([3, 1])), gather(resident.images, torch.tensor([3, 1])))


@pytest.mark.parametrize(("free", "mapped"), [(2.1, False), (1.9, True)])
def test_what_takes_more_than_half_of_the_free_memory_is_mapped(file, monkeypatch, free, mapped):
    images = digits()[0].images
    monkeypatch.setattr("engine.data.samples.free_bytes", lambda device: free * images.nbytes)
    assert Samples.open(file, digits()[0].labels).mapped is mapped


def group(folder, limit, used, cached, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached}\n")


def test_the_limits_of_control_groups_count_and_page_cache_is_free(tmp_path):
    two, one = host.NAMES
    group(tmp_path / "a" / "b", 1000, 500, 200, two)
    group(tmp_path / "a", "max", 900, 0, two)
    assert list(host.group_room("0::/a/b\n", tmp_path)) == [700]
    group(tmp_path / "a", 800, 900, 0, two)
    assert list(host.group_room("0::/a/b\n", tmp_path)) == [700, 0]
    group(tmp_path / "memory", 5000, 1000, 100, one)
    assert list(host.group_room("4:cpu:/x\n3:memory:/elsewhere\n", tmp_path)) == [4100]
    assert list(host.group_room("0::/\n", tmp_path)) == []


def test_free_memory_is_known_here():
    assert 2**20 < memory.free_bytes(torch.device("cpu")) < 2**50


def test_a_walk_that_reads_ahead_yields_the_bits_of_a_resident_one(file):
    def batches(samples):
        adversarial = torch.rand(9, 1, 8, 8, generator=seeding.generator(1))
        relabel = lambda labels, generator: torch.randint(0, 10, labels.shape, generator=generator)  # noqa: E731
        training_set = TrainingSet(
            [
                Source(samples.images, samples.labels, torch.arange(40, 90), "crop_flip"),
                Source(adversarial, torch.arange(9), torch.arange(9)),
                Source(samples.images, samples.labels, torch.arange(7), "none", relabel),
            ]
        )
        generator = seeding.generator(2)
        order = torch.randperm(training_set.n, generator=generator)
        return list(training_set.walk(order, [13, 13, 13, 13, 14], generator))

    for one, other in zip(*(batches(samples) for samples in both(file)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_fails_while_reading_ahead_reaches_the_caller(file):
    samples = both(file)[1]
    training_set = TrainingSet([Source(samples.images, samples.labels, torch.tensor([0, 10**6]))])
    with pytest.raises(ValueError, match="bounds"):
        list(training_set.walk(torch.arange(2), [2], seeding.generator(0)))


def test_training_and_logits_of_mapped_samples_equal_those_of_resident_ones(file):
    models = [
        Recipe(sgd, SgdRecipe(epochs=2, augment="crop_flip")).train(
            seeding.seeded_model(small_network, 1),
            samples,
            torch.from_numpy(train_positions()),
            seeding.generator(1),
            NullProgress(),
        )
        for samples in both(file)
    ]
    assert same(*models)
    first, second = (evaluation.logits(models[0], samples.images) for samples in both(file))
    assert torch.equal(first, second)


def test_pages_that_were_read_are_given_back(file, monkeypatch):
    monkeypatch.setattr("engine.data.samples.MOST_MAPPED", 640)
    monkeypatch.setattr("engine.data.samples.MAPPED_AROUND", 64)
    monkeypatch.setattr("engine.evaluation.CPU_BATCH", 1024)
    mapped, given_back = both(file)[1], []

    class File:
        def madvise(self, advice, *span):
            if advice == mmap.MADV_DONTNEED:
                given_back.append(span)
            else:
                assert span[0] % mmap.PAGESIZE == 0

    mapped.images.mapping._file = File()
    rows = torch.arange(10)
    for calls in (0, 1, 1, 2):
        assert torch.equal(gather(mapped.images, rows), digits()[1].images[:10])
        assert len(given_back) == calls
    evaluation.logits(seeding.seeded_model(small_network, 1), mapped.images)
    assert len(given_back) == 3


def test_random_rows_map_little_of_a_large_file_whatever_the_system_maps_around_them(on_disk, monkeypatch):
    """Some kernels map 2 MiB for a row of 4 KiB: a few hundred random rows would hold the whole file."""
    path, count = on_disk / "large.npy", 2**28 // 4096
    np.save(path, np.ones((count, 64, 64, 1), dtype=np.uint8))
    monkeypatch.setattr("engine.data.samples.MOST_MAPPED", 2**24)
    mapped = Samples.open(path, np.zeros(count), resident=False).images

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))

    before, most = resident(), 0
    for rows in np.random.default_rng(1).integers(0, len(mapped), (20, 100)):
        gather(mapped, torch.from_numpy(rows))
        most = max(most, resident() - before)
    assert most < 2**25


LARGE = """
    import resource, sys, numpy as np, torch, torch._dynamo  # which optimisers load, and is none of the data
    from app.catalog import FineTuneParams, SgdRecipe
    from engine import evaluation, seeding
    from engine.data.samples import Samples, Split
    from engine.methods import MethodContext
    from engine.methods.fine_tune import fine_tune
    from engine.recipes import Recipe
    from engine.recipes.sgd import sgd
    from engine.training import NullProgress

    path, limit = sys.argv[1], int(sys.argv[2])
    labels = np.arange(np.load(path, mmap_mode="r").shape[0]) % 10
    build = lambda: torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(48, 10))
    model = seeding.seeded_model(build, 0)
    used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
    samples = Samples.open(path, labels, resident=False)
    rows = torch.arange(samples.n)
    split = Split(samples, rows[:10], rows[10:], rows[:0])
    context = MethodContext(seeding.generator(0), NullProgress(), Recipe(sgd, SgdRecipe()), lambda: model)
    before = model[2].weight.detach().clone()
    fine_tune(model, split, FineTuneParams(epochs=1, batch_size=64), None, context)
    assert not torch.equal(before, model[2].weight)
    print(len(evaluation.logits(model, samples.images)))
    try:
        Samples.open(path, labels, resident=True)
    except MemoryError:
        print("too large to be read")
"""


def test_fine_tuning_on_a_mapped_set_under_a_cap_smaller_than_the_set(on_disk):
    """384 MiB of images, 320 MiB of private memory: read into memory they would not fit.

    What is freed is given back at once. Left to itself, the allocator keeps more or less of it by chance.
    """
    images = np.lib.format.open_memmap(on_disk / "large.npy", "w+", np.uint8, (8192, 128, 128, 3))
    images[::500] = 200
    images.flush()
    del images
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LARGE), on_disk / "large.npy", str(320 * 2**20)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["8192", "too large to be read"], done.stderr
