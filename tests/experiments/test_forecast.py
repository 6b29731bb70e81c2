"""What a long run of `lethe bench` has left to do, said before it begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.command import arguments, main
from experiments.computing import COMPUTE
from experiments.data import Data, load
from experiments.forecast import Line, _Prices, forecast, said
from experiments.lab import Lab
from experiments.run import STUDIES
from experiments.scales import SCALES
from experiments.store import Store

TINY = SCALES["tiny"]("")


@pytest.fixture
def lab(tmp_path):
    torch.set_num_threads(1)
    return Lab(Store(tmp_path), torch.device("cpu"), COMPUTE)


def test_a_forecast_counts_every_cell_that_is_missing_and_no_other(lab, monkeypatch):
    monkeypatch.setattr(_Prices, "_measure", lambda _self, _world: (1e-4, 1e-5))  # a machine's own vary by the minute
    [exactness, theory] = forecast(lab, TINY, ["exactness", "theory"])
    assert (exactness.stage, exactness.cells) == ("exactness 1", 8)  # 4 references, 2 models, 2 verdicts
    assert theory.cells == 1
    assert exactness.hours > 0
    reference = next(iter(TINY.main.base(0.1)))
    lab.get(reference)
    [fewer, _] = forecast(lab, TINY, ["exactness", "theory"])
    assert fewer.cells == 7
    assert 0 < fewer.hours < exactness.hours


def test_what_depends_on_rates_that_are_not_known_is_counted_too(lab):
    lines = {line.stage: line.cells for line in forecast(lab, TINY, ["tables", "sequential"])}
    rows = len(TINY.main.methods(True))
    assert lines["tables 1"] > 2 * rows * (len(TINY.main.rates) + len(TINY.main.forgets)), "models and measurements"
    assert lines["sequential 1"] > 0


def test_a_stage_without_its_data_is_not_priced(lab):
    night = SCALES["night"]("")
    assert forecast(lab, night, ["tables"]) == []


def test_the_forecast_is_said_first(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SCALES, "tiny", lambda _: replace(TINY, priced=True))
    given = ["--scale", "tiny", "--study", "theory", "--out", str(tmp_path), "--budget-seconds", "0", "--device", "cpu"]
    assert arguments(given).scale == "tiny"
    assert main([*given, "--processes", "1"]) == 3
    assert capsys.readouterr().out.startswith("left to compute: about 0.0 core-hours")
    assert said([Line("tables 1", 1200, 2.5), Line("weak 1", 3, 0.5)]).splitlines() == [
        "left to compute: about 3.0 core-hours (a rough forecast)",
        "  tables 1        1,200 cells      2.5 core-hours",
        "  weak 1              3 cells      0.5 core-hours",
    ]


def test_the_forget_sets_of_a_night_have_no_sample_in_common():
    main_setting = SCALES["night"]("").main
    raw = load(Data("digits"), None)
    sets = [main_setting.forget(0.1, seed).positions(raw) for seed in (*main_setting.tuning, *main_setting.forgets)]
    together = np.concatenate(sets)
    assert len(np.unique(together)) == len(together) == round(0.6 * int((~raw.holdout).sum()))
    assert not raw.holdout[together].any()
    halves = [replace(main_setting, disjoint=2).forget(0.5, seed).positions(raw) for seed in (0, 1)]
    assert len(np.intersect1d(*halves)) == 0
    assert main_setting.forget(0.5, 3).parts == 1, "six halves do not fit"


def test_a_night_has_every_row_once():
    night = SCALES["night"]("")
    first, others, _ = night.settings
    labels = [method.label for setting in (first, others) for method in setting.methods(True)]
    assert sorted(labels) == sorted({*labels})
    assert {method.label for method in TINY.main.methods(True)} == set(labels)
    assert set(STUDIES) >= {"tables", "sequential"}
