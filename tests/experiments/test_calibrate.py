"""`lethe calibrate`: what it counts, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import seeding
from engine.data.samples import RawData
from experiments import calibrate, networks
from experiments.calibrate import COUNTS, SHAPES, Part, Persons
from experiments.store import Store


def test_every_row_is_planned_in_each_round_and_the_long_form_has_two_hundred_retrains_on_digits() -> None:
    short, full = (list(calibrate.plan(0, full=full)) for full in (False, True))
    rows = {
        (cell.shape, cell.count, cell.audit) for cell in short if isinstance(cell, Part) and cell.models != "digits"
    }
    assert rows == {(shape, count, "rmia") for shape in SHAPES for count in COUNTS} | {(s, 16, "lira") for s in SHAPES}
    assert sum(cell.models == "digits" for cell in short if isinstance(cell, Part)) == 50, "forget sets"
    for shape in SHAPES:
        sets = sum(cell.models == "digits" and cell.shape == shape for cell in full if isinstance(cell, Part))
        assert sets * calibrate.RETRAINS >= 200
    assert not any(cell.models == "cifar10" for cell in short if isinstance(cell, Part))
    shown = [cell for cell in calibrate.plan(0, full=True, pictures=True) if isinstance(cell, Part)]
    for shape in calibrate.PICTURES:
        assert sum((cell.models, cell.shape) == ("cifar10", shape) for cell in shown) * calibrate.RETRAINS >= 200
    for cells in (short, full):
        simulated = [c for c in cells if isinstance(c, Part) and (c.shape, c.count, c.audit) == ("random", 4, "rmia")]
        assert len(simulated) * calibrate.WORLDS * calibrate.RETRAINS >= 200
        assert len({(cell.people, cell.alike) for cell in cells if isinstance(cell, Persons)}) == 12


@pytest.mark.parametrize("shape", ["random", "memorised"])
def test_a_part_counts_retrains_and_fakes(shape: str) -> None:
    found = calibrate.simulated(Part("simulated", shape, 2, "rmia", 0, 0))
    assert (found["retrains"], found["fakes"]) == (42, 35)
    assert found["passes"] == 0
    assert found["fails"] <= 1
    assert found["judged"] == 42
    assert found == calibrate.simulated(Part("simulated", shape, 2, "rmia", 0, 0)), "it follows from the seed"


def pictures(count: int) -> RawData:
    """Noise in ten classes, two thirds of it trained on."""
    random = np.random.default_rng(0)
    return RawData(
        [f"p{number}" for number in range(count)],
        random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
        np.arange(count) % 10,
        np.arange(count) % 3 == 2,
    )


def test_three_pictures_of_a_class_and_half_are_one_person() -> None:
    raw = pictures(600)
    people = networks.people_of(raw)
    for person in np.unique(people):
        rows = np.flatnonzero(people == person)
        assert 1 <= len(rows) <= 3
        assert len(np.unique(raw.labels[rows])) == len(np.unique(raw.holdout[rows])) == 1
    assert np.unique(people[~raw.holdout], return_counts=True)[1].mean() > 2.5


def test_a_network_is_fine_tuned_from_a_base_of_other_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(networks, "load", lambda _data, _folder: pictures(300))
    tuned = networks.on_cifar10(0, tmp_path)
    assert (len(tuned.train), len(tuned.holdout)) == (100, 50)
    assert set(np.unique(tuned.raw.labels)) == set(range(5))
    one, two = (seeding.seeded_model(tuned.start, seed).state_dict() for seed in (1, 2))
    different = {name for name in one if not torch.equal(one[name], two[name])}
    head = {name for name in one if name.startswith(f"{list(one)[-1].rpartition('.')[0]}.")}
    assert different <= head
    assert different, "the head is drawn anew"
    last = tuned.tuned(tuned.train, 1, head=True).state_dict()
    moved = {
        name
        for name, value in tuned.parent().state_dict().items()
        if "running" not in name and "num_" not in name
        if not torch.equal(value, last[name])
    }
    assert moved == head
    forget = calibrate.chosen(tuned, "by person", np.random.default_rng(0))
    assert len(forget) == 100, "there are fewer people than are asked for here"


def test_it_stops_at_its_limit_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Part("simulated", "random", count, "rmia", 0, 0) for count in (0, 2)]
    monkeypatch.setattr(calibrate, "plan", lambda _seed, full, pictures: iter(cells))
    run = ["--out", str(tmp_path), "--processes", "1", "--budget-seconds"]
    assert calibrate.main([*run, "0.000001"]) == 3
    assert json.loads((tmp_path / "calibration.json").read_text())["complete"] is False
    assert calibrate.main([*run, "60"]) == 0
    before = [Store(tmp_path).read(cell) for cell in cells]
    assert calibrate.main([*run, "60"]) == 0
    assert [Store(tmp_path).read(cell) for cell in cells] == before
    text = (tmp_path / "calibration.md").read_text()
    assert "| simulated | rmia | random | 2 | 42 | 0.0 % | 35 | 0.0 % |" in text
