"""`lethe calibrate`: what it counts, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import calibrate
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


def test_it_stops_at_its_limit_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Part("simulated", "random", count, "rmia", 0, 0) for count in (0, 2)]
    monkeypatch.setattr(calibrate, "plan", lambda _seed, full: iter(cells))
    run = ["--out", str(tmp_path), "--processes", "1", "--budget-seconds"]
    assert calibrate.main([*run, "0.000001"]) == 3
    assert json.loads((tmp_path / "calibration.json").read_text())["complete"] is False
    assert calibrate.main([*run, "60"]) == 0
    before = [Store(tmp_path).read(cell) for cell in cells]
    assert calibrate.main([*run, "60"]) == 0
    assert [Store(tmp_path).read(cell) for cell in cells] == before
    text = (tmp_path / "calibration.md").read_text()
    assert "| simulated | rmia | random | 2 | 42 | 0.0 % | 35 | 0.0 % |" in text
