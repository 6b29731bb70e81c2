"""The bench's parts: identity of cells, claims, states, the rates' choice, substitutes, the theorem."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from app import catalog
from app.catalog import TorchvisionSource
from engine import seeding
from engine.attacks import AttackResult
from engine.data.samples import Split, gather, to_float
from experiments import checks, command, data, plots, report, rounding, scales, store, tables
from experiments.cells import Adversarial, Configuration, Forget, Trained, Unlearned, configuration
from experiments.command import arguments, processes
from experiments.computing import COMPUTE, substituted
from experiments.lab import Lab
from experiments.protocol import AMUN, RL
from experiments.run import STUDIES
from experiments.store import Busy, CellProgress, NotMeasured, OutOfTime, Result, Store, key
from experiments.theory import both_sides
from tests.catalog_cases import named
from tests.engine.cases import digits

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Number(store.Cell):
    value: int
    inside: Number | None = None


def tiny():
    return scales.tiny("").main


def test_a_cells_key_is_made_of_all_that_it_is_computed_from():
    assert key(Number(1)) == key(Number(1))
    assert key(Number(1, Number(2))) == key(Number(1, Number(2)))
    others = {key(Number(2)), key(Number(1, Number(2))), key(Number(1, Number(3)))}
    assert len(others | {key(Number(1))}) == 4


@pytest.fixture(scope="module")
def published():
    """The cells of the published run of scale `small`, by key."""
    file = ROOT / "benchmarks" / "results" / "small" / "cells.jsonl.gz"
    return {cell["key"]: cell for cell in map(json.loads, gzip.decompress(file.read_bytes()).splitlines())}


@pytest.mark.parametrize("study", sorted(set(STUDIES) - {"sequential"}))  # of which some cells failed
def test_the_cells_of_a_published_run_are_still_found(study, published, monkeypatch):
    """A renamed class or field, or another default, would give each cell a new key and compute all of it again."""
    methods = {found["cell"]["method"]["name"] for found in published.values() if found["cell"]["kind"] == "Unlearned"}
    for name in catalog.METHODS.keys() - methods:  # a method that was added since
        monkeypatch.delitem(catalog.METHODS, name)
    lab = SimpleNamespace(peek=lambda cell: Result(published[key(cell)]["figures"]) if key(cell) in published else None)
    cells = [cell for plan in STUDIES[study].plans for cell in plan(lab, scales.small(""))]
    assert [cell for cell in cells if key(cell) not in published] == []
    assert cells or study in ("larger", "gate")


def test_a_new_method_of_the_catalog_is_a_row_of_every_table(monkeypatch):
    class Params(catalog.Params):
        epochs: int = 3
        strength: float = 1.0

    new = replace(catalog.METHODS["random_label"], params=Params, label="", variants={"strong": {"strength": 2.0}})
    monkeypatch.setitem(catalog.METHODS, "added", new)
    setting = tiny()
    by_label = {method.label: method for method in setting.methods(False)}
    assert list(by_label)[-2:] == ["added", "strong"]
    assert setting.grid(by_label["added"]) == (0.0,)
    assert setting.configured(by_label["added"], 0.0) == configuration("methods", "added", {"epochs": 3})
    assert setting.configured(by_label["strong"], 0.0) == configuration(
        "methods", "added", {"epochs": 3, "strength": 2.0}
    )
    assert "Retrain" not in by_label  # it has a row of its own


def test_every_parameter_of_a_run_is_in_its_key():
    setting, forget = tiny(), Forget(0.1, 10)
    run = setting.unlearned(AMUN, 0.03, forget, True, 1)
    changed = [
        setting.unlearned(AMUN, 0.01, forget, True, 1),
        setting.unlearned(RL, 0.03, forget, True, 1),
        setting.unlearned(AMUN, 0.03, replace(forget, seed=11), True, 1),
        setting.unlearned(AMUN, 0.03, forget, False, 1),
        setting.unlearned(AMUN, 0.03, forget, True, 2),
        setting.unlearned(AMUN, 0.03, forget, True, 1, run=1),
        setting.unlearned(AMUN, 0.03, forget, True, 1, attack=scales.FAST),
        replace(run, gone=(Forget(0.1, 1),)),
        replace(run, substitute="RL"),
        replace(run, start=replace(run.start, world=scales.digits(11))),
    ]
    assert len({key(each) for each in [run, *changed]}) == 11


def test_the_key_of_a_long_chain_of_requests_takes_no_longer_for_each():
    setting, state = tiny(), Trained(scales.digits(1), 1)
    for part in range(60):  # worked out anew at each of two mentions, this would take 2 ** 60 digests
        forget = Forget(0.5, 1, part=part, parts=60)
        searched = Adversarial(state, forget, setting.attack)
        state = Unlearned(state, forget, setting.configured(AMUN, 0.1), True, searched)
        key(state)
    assert len(key(state)) == 20


def test_a_computed_cell_is_not_computed_again(tmp_path):
    calls = []

    def work(_progress):
        calls.append(1)
        return Result({"value": 1}, {"row": torch.arange(3)})

    assert Store(tmp_path).compute(Number(1), work, wait=True)
    assert not Store(tmp_path).compute(Number(1), work, wait=True)
    found = Store(tmp_path).read(Number(1), tensors=True)
    assert calls == [1]
    assert found.figures == {"value": 1}
    assert found.tensors["row"].tolist() == [0, 1, 2]


def test_a_cell_that_another_has_claimed_is_left_to_it_and_freed_when_its_work_breaks(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)

    def fails(_progress):
        with pytest.raises(Busy):
            second.compute(Number(1), lambda _p: Result({}), wait=False)
        raise NotMeasured("no")

    with pytest.raises(NotMeasured):
        first.compute(Number(1), fails, wait=True)
    assert second.compute(Number(1), lambda _p: Result({"value": 2}), wait=False)


def test_nothing_is_begun_once_the_time_is_over(tmp_path):
    with pytest.raises(OutOfTime):
        Store(tmp_path, budget_seconds=-1).compute(Number(1), lambda _p: Result({}), wait=True)


def test_what_a_cell_rests_on_is_not_counted_as_its_own_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0]))
    held = Store(tmp_path)

    def inner(_progress):
        now[0] += 300
        return Result({})

    def outer(_progress):
        held.compute(Number(2), inner, wait=True)
        now[0] += 7
        return Result({})

    held.compute(Number(1), outer, wait=True)
    assert (held.read(Number(2)).seconds, held.read(Number(1)).seconds) == (300, 7)


def test_a_training_stopped_by_the_time_limit_goes_on_and_ends_bit_for_bit_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SECONDS_BETWEEN_STATES", 0.0)
    cell = Trained(scales.digits(6), 1)
    straight = Lab(Store(tmp_path / "a"), torch.device("cpu"), COMPUTE).get(cell, tensors=True).tensors
    lab, updates = Lab(Store(tmp_path / "b"), torch.device("cpu"), COMPUTE), []

    def update(_self, fraction):
        updates.append(fraction)
        if len(updates) == 3:
            raise OutOfTime

    monkeypatch.setattr(CellProgress, "update", update)
    with pytest.raises(OutOfTime):
        lab.get(cell)
    assert lab.peek(cell) is None
    resumed = lab.get(cell, tensors=True).tensors
    assert updates.count(1 / 6) == 1  # not begun anew
    assert updates[-1] == 1.0
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_forget_sets_of_one_seed_nest_and_requests_share_nothing():
    raw, _ = digits()
    small, large = Forget(0.1, 7).positions(raw), Forget(0.5, 7).positions(raw)
    assert set(small) < set(large)
    parts = [Forget(0.5, 7, part=part, parts=5) for part in range(5)]
    pieces = [each.positions(raw) for each in parts]
    assert np.array_equal(np.sort(np.concatenate(pieces)), large)
    assert np.array_equal(replace(parts[4], whole=True).positions(raw), large)
    assert np.array_equal(replace(parts[1], whole=True).positions(raw), np.sort(np.concatenate(pieces[:2])))
    assert not raw.holdout[large].any()


def test_a_forget_set_of_classes_has_only_those():
    raw, _ = digits()
    assert set(raw.labels[Forget(0.4, 1, (5, 6)).positions(raw)]) == {5, 6}
    whole = Forget(1.0, 1, (0,)).positions(raw)
    assert len(whole) == ((raw.labels == 0) & ~raw.holdout).sum()


def test_rates_are_not_tuned_on_what_is_reported():
    with pytest.raises(ValueError, match="not reported"):
        replace(tiny(), tuning=(10,))
    with pytest.raises(ValueError, match="equally long"):
        replace(tiny(), rates=(0.1,))
    for scale in (scales.small(""), scales.gpu30(""), scales.paper("")):
        assert all(not set(each.tuning) & set(each.forgets) for each in scale.settings)


def test_every_name_of_every_scale_is_in_the_catalog_with_those_parameters():
    for make in scales.SCALES.values():
        scale = make("")
        for setting in (*scale.settings, *scale.larger):
            setting.world.recipe.parsed()
            setting.world.architecture.parsed()
            setting.attack.parsed()
            for remain in (True, False):
                for method in setting.methods(remain):
                    setting.configured(method, setting.grid(method)[0]).parsed()
        for _, recipe, _ in scale.robust:
            recipe.parsed()
        for _, attack in scale.strengths:
            attack.parsed()


@pytest.mark.parametrize("name", ["gpu30", "paper"])
@pytest.mark.parametrize("precision", ["", "float32"])
def test_what_is_for_gpus_follows_the_papers_protocol(name: str, precision: str) -> None:
    """D_R and D_F cropped and flipped, the rate times 0.1 after each fifth of the epochs (AMUN, appendix A)."""
    scale = scales.SCALES[name](precision)
    worlds = [setting.world.recipe.parsed().model_dump() for setting in (*scale.settings, *scale.larger)]
    clipped = [recipe.parsed().model_dump() for label, recipe, _ in scale.robust if label == "clipped"]
    for recipe in (*worlds, *clipped):
        assert (recipe["augment"], recipe["schedule"]) == ("crop_flip", "step")
        assert recipe["epochs"] == 5 * recipe["step_every"]
        assert recipe.get("precision", "float32") == (precision or ("bfloat16" if name == "gpu30" else "float32"))
    for _, recipe, _ in scale.robust:
        assert recipe.parsed().model_dump()["augment"] == "crop_flip"
    assert json.loads(scale.main.fixed)[""] == {"epochs": 10, "batch_size": 128, "decay_every": 5}


@pytest.mark.parametrize(("more", "expected"), [
    ([], 6), (["--threads", "2"], 3), (["--threads", "8"], 1), (["--device", "cuda"], 1), (["--download"], 1),
    (["--scale", "gpu30"], 1),
])  # fmt: skip
def test_on_the_cpu_every_core_is_used(more, expected, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert processes(arguments(["--out", "x", "--scale", "small", "--device", "cpu", *more])) == expected


def test_a_name_that_the_catalog_lacks_is_not_measured():
    with pytest.raises(NotMeasured, match="no recipe 'sorcery'"):
        Configuration("recipes", "sorcery").parsed()


@pytest.mark.parametrize("name", named("architectures"))
def test_every_architecture_is_built_for_the_size_of_the_images(name, tmp_path):
    world = replace(
        scales.digits(1), architecture=configuration("architectures", name, catalog.ARCHITECTURES[name].example)
    )
    lab = Lab(Store(tmp_path), torch.device("cpu"), COMPUTE)
    assert lab.get(Trained(world, 1), tensors=True).tensors["logits"].shape == (1797, 10)


def pair(folder, classes, side, train, test):
    """`train.parquet` and `test.parquet` of random colour PNGs, some of them grey, as in Tiny-ImageNet."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for name, count in (("train", train), ("test", test)):
        rows = {"id": [f"{name}-{row}" for row in range(count)], "image": [], "label": []}
        for row in range(count):
            pixels = random.integers(0, 256, (side, side) if row % 50 == 9 else (side, side, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            rows["image"].append({"bytes": file.getvalue(), "path": None})
            rows["label"].append(row % classes)
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")


@pytest.mark.parametrize(
    ("number", "folder", "classes", "side"), [(0, "cifar100", 100, 32), (1, "tiny-imagenet", 200, 64)]
)
def test_larger_data_are_measured_from_parquet_once_they_are_there(number, folder, classes, side, tmp_path):
    """The very settings of the scale `paper` on images of those shapes, with a narrow network and few of everything."""
    pair(tmp_path / folder, classes, side, 2 * classes, classes)
    full = scales.paper("").larger[number]
    world = replace(full.world, architecture=full.world.architecture.but(width=2))
    world = replace(world, recipe=world.recipe.but(epochs=1))
    fixed = json.dumps({"": {"epochs": 1, "batch_size": 128}})
    setting = replace(
        full, world=world, references=4, models=(1,), forgets=(10,), tuning=(1,), rates=(0.01,), dampings=(1.0,),
        fixed=fixed, attack=scales.FAST, runs=1,
    )  # fmt: skip
    lab, other = Lab(Store(tmp_path / "out"), torch.device("cpu"), COMPUTE, tmp_path), checks.Other(setting, (AMUN,))
    for cell in checks.other_plan(lab, [other]):
        lab.get(cell)
    there = lab.loaded(world)
    assert (there.samples.num_classes, there.samples.shape) == (classes, (3, side, side))
    (section,) = checks.other_sections(lab, [other], "Larger data")
    assert report.NOT_MEASURED not in report.markdown(section)
    assert [row[0] for row in section.tables[0].rows] == ["Retrain", "Second retrain", "Original, untouched", "AMUN"]


def test_larger_data_come_from_torchvision_where_it_has_downloaded_them(tmp_path, monkeypatch):
    """Its own CIFAR-100 checks the digests of its files: the generated set stands in for it."""
    made = TorchvisionSource(dataset="FakeData", options={"size": 300, "image_size": "3x32x32", "num_classes": 100})
    monkeypatch.setattr(data, "TorchvisionSource", lambda dataset: made if dataset == "CIFAR100" else None)
    (tmp_path / "cifar-100-python").mkdir()
    raw = data.load(data.Data("cifar100"), tmp_path)
    assert raw.images.shape[1:] == (32, 32, 3)
    assert 50 < len(set(raw.labels)) <= 100


def test_data_that_are_not_there_are_not_measured(tmp_path):
    world = replace(scales.digits(1), data=replace(scales.digits(1).data, name="cifar100"))
    lab = Lab(Store(tmp_path / "out"), torch.device("cpu"), COMPUTE, tmp_path)
    with pytest.raises(NotMeasured, match="cifar100"):
        lab.get(Trained(world, 1))


def test_a_method_that_diverges_fails_its_cell_and_not_the_run(tmp_path):
    lab, setting, forget = Lab(Store(tmp_path), torch.device("cpu"), COMPUTE), tiny(), Forget(0.1, 10)
    setting = replace(setting, world=scales.digits(1))
    wild = setting.unlearned(RL, 10.0, forget, False, 1, epochs=30, momentum=0.99)
    cell = replace(wild, method=wild.method.but(weight_decay=0.9))
    found = lab.get(cell)
    if "failed" not in found.figures:
        pytest.fail("a rate of 10 was meant to diverge")
    assert "failed" in lab.get(setting.measured(cell, forget)).figures
    with pytest.raises(NotMeasured, match="failed"):
        lab.get(Unlearned(cell, forget, cell.method, False))


def test_a_ruined_model_is_a_failure_where_it_answers_nothing_and_measured_where_it_answers_wildly(tmp_path):
    lab, forget = Lab(Store(tmp_path), torch.device("cpu"), COMPUTE), Forget(0.1, 10)
    setting = replace(tiny(), world=scales.digits(1), references=2)
    cell = Trained(setting.world, 1)
    model, samples = lab.model(cell), lab.loaded(setting.world).samples
    with torch.no_grad():
        next(reversed(list(model.parameters()))).mul_(0).add_(1e6)
    assert lab.logits(model, samples).isfinite().all()
    held = lab.get(cell, tensors=True)
    broken = {**held.tensors, "logits": torch.full_like(held.tensors["logits"], torch.nan)}
    other = replace(cell, seed=2)
    lab.store.compute(other, lambda _progress: Result({}, broken), wait=True)
    assert "failed" in lab.get(setting.measured(other, forget)).figures


# -- substitutes of the adversarial set --------------------------------------------------------------


def substitutes():
    _, samples = digits()
    forget = torch.arange(40)
    clean, true = to_float(gather(samples.images, forget)), samples.labels[forget]
    moved = (clean + 0.1).clamp(0, 1)
    norms = torch.linalg.vector_norm(moved - clean, dim=(1, 2, 3))
    found = torch.ones(40, dtype=torch.bool)
    given = AttackResult(moved, (true + 1) % 10, found, norms, torch.zeros(40, dtype=torch.int32), norms)
    split = Split(samples, forget, forget[:0], forget[:0])
    made = {
        name: substituted(name, given, split, torch.Generator().manual_seed(0))
        for name in ("Orig", "AdvL", "RL", "ARL", "ARS")
    }
    return clean, true, given, made


def test_substitutes_take_images_and_labels_from_where_the_paper_says():
    clean, true, given, made = substitutes()
    assert torch.equal(made["Orig"].images, clean)
    assert torch.equal(made["Orig"].labels, true)
    assert torch.equal(made["AdvL"].images, clean)
    assert torch.equal(made["AdvL"].labels, given.labels)
    assert torch.equal(made["RL"].images, clean)
    assert torch.equal(made["ARL"].images, given.images)
    assert torch.equal(made["ARS"].labels, given.labels)


def test_random_labels_are_neither_true_nor_adversarial():
    _, true, given, made = substitutes()
    for name in ("RL", "ARL"):
        labels = made[name].labels
        assert not ((labels == true) | (labels == given.labels)).any()
        assert len(set(labels.tolist())) > 5


def test_random_directions_are_no_longer_than_the_adversarial_ones():
    clean, _, given, made = substitutes()
    lengths = torch.linalg.vector_norm(made["ARS"].images - clean, dim=(1, 2, 3))
    assert (lengths <= given.norms + 1e-5).all()  # shorter where a pixel met its bound
    assert (lengths > 0.3 * given.norms).all()
    assert not torch.allclose(made["ARS"].images, given.images, atol=1e-2)


# -- tables ----------------------------------------------------------------------------------------


def rows_of(label, figures, seeds):
    found = [Result({"mis": 10.0, "fr": 60.0, "rt": 70.0, "ft_lira": 50.0, "tpr": {}}) for _ in figures]
    return tables.Rows(
        label, list(seeds), [1] * len(figures), np.array(figures, float), found, [1.0] * len(figures), 0.1
    )


def test_the_table_computes_the_gap_of_its_own_columns():
    retrained = rows_of("Retrain", [[90, 100, 85, 50], [92, 100, 87, 52]], [1, 2])  # mean 91, 100, 86, 51
    amun = rows_of("AMUN", [[95, 99, 86, 53], [87, 99, 86, 49]], [1, 2])
    table = tables.table_of([retrained, "Second retrain", "Original, untouched", amun, "RL"], "t", 2)
    line = dict(zip(table.columns, table.rows[3], strict=True))
    # |4| |1| |0| |2| and |-4| |1| |0| |-2|: 7 / 4 each; the means differ by 0, 1, 0, 0
    assert line["Avg. Gap"] == "1.75 ± 0.00"
    assert line["of means"] == pytest.approx(0.25)
    # to the retrains of their own sets: 5, 1, 1, 3 and 5, 1, 1, 3
    assert line["paired gap"] == pytest.approx(2.5)
    assert table.rows[4][:2] == ["RL", report.NOT_MEASURED]


def test_a_row_without_all_of_its_runs_says_so():
    retrained = rows_of("Retrain", [[90, 100, 85, 50], [92, 100, 87, 52]], [1, 2])
    amun = rows_of("AMUN", [[95, 99, 86, 53]], [1])
    table = tables.table_of([retrained, "Second retrain", "Original, untouched", amun], "t", 2)
    assert table.rows[3][0] == "AMUN (1)"


def test_methods_are_compared_over_forget_sets_and_p_values_adjusted_for_their_number():
    seeds = range(6)
    retrained = rows_of("Retrain", [[90, 100, 85, 50]] * 6, seeds)
    amun = rows_of("AMUN", [[91, 100, 85, 50]] * 6, seeds)
    worse = rows_of("RL", [[90 + k, 100, 85, 50] for k in (10, 11, 12, 13, 14, 15)], seeds)
    same = rows_of("FT", [[89, 100, 85, 50]] * 6, seeds)
    table = tables.table_of([retrained, "Second retrain", "Original, untouched", amun, worse, same], "t", 6)
    p_values = {row[0]: row[8] for row in table.rows}
    assert p_values["RL"] == "0.062"  # 2 / 64, twice
    assert p_values["FT"] == "1.000"
    assert p_values["AMUN"] == ""


def test_intervals_are_students():
    assert report.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert np.isnan(report.half_width([1.0]))
    assert report.with_interval([]) == report.NOT_MEASURED


def test_markdown_says_not_measured_for_what_is_missing():
    section = report.Section("A", "", [report.Table("T", ["x", "y"], [["a", None], ["b", 1.5], ["c", float("nan")]])])
    text = report.markdown(section)
    assert "| a | not measured |" in text
    assert "| b | 1.50 |" in text
    assert "| c | – |" in text


def test_cell_specs_are_json():
    cell = tiny().unlearned(AMUN, 0.03, Forget(0.1, 10), True, 1)
    assert json.loads(json.dumps(store.described(cell)))["method"]["name"] == "amun"
    assert configuration("attacks", "pgd_l2", {"steps": 1}).but(steps=2).parsed().steps == 2


def test_in_the_committed_results_no_exact_retrain_failed_and_every_untouched_model_did():
    document = json.loads((ROOT / "benchmarks/results/small/results.json").read_text())
    (verdicts,) = document["studies"]["exactness"][0]["tables"]
    rows = [dict(zip(verdicts["columns"], row, strict=True)) for row in verdicts["rows"]]
    assert {(row["model"], row["forgotten"]) for row in rows} == {
        (model, share) for model in ("exact retrain", "untouched") for share in ("10 %", "50 %")
    }
    for row in rows:
        assert row["seeds"] == 5
        assert row["fail"] == (5 if row["model"] == "untouched" else 0)


@pytest.mark.parametrize("values", [[], [float("nan")] * 2])
def test_a_figure_of_runs_that_all_failed_is_drawn_empty(tmp_path: Path, values: list[float]):
    series = [{"label": "a", "x": list(range(len(values))), "y": values}]
    panels = [{"kind": "lines", "title": "t", "x": "epoch", "series": series}]
    assert plots.draw([report.Figure("f", "t", panels)], tmp_path)
    with Image.open(tmp_path / "f.png") as image:
        assert image.size[0] > 100


# -- theorem 4.1 -----------------------------------------------------------------------------------


def test_the_theorem_holds_where_its_assumptions_do_and_the_tighter_form_is_tighter():
    rows = both_sides(40, seed=3)["rows"]
    assert all(row["holds"] == 1 and row["tighter_holds"] == 1 for row in rows)
    assert all(row["left"] <= row["tighter"] <= row["right"] for row in rows)
    by_distance = [row["right"] for row in rows if row["data"] == rows[0]["data"]]
    assert by_distance == sorted(by_distance)


# -- machines that round differently ---------------------------------------------------------------


def test_machines_are_known_by_what_training_steps_leave() -> None:
    with seeding.deterministic():
        found = [rounding.family(torch.device("cpu")) for _ in range(2)]
    assert found[0] == found[1]
    assert re.fullmatch("[0-9a-f]{10}", found[0])


def test_cells_of_machines_that_round_otherwise_are_in_no_table(tmp_path: Path) -> None:
    """Nor are they computed again on the way to a report: which folder is meant is asked."""
    for name in ("0" * 10, "1" * 10):
        (tmp_path / name / "cells").mkdir(parents=True)
    given = ["--scale", "tiny", "--study", "theory", "--out", str(tmp_path), "--report", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0000000000 or 1111111111"):
        command.store_of(arguments(given))
    assert command.store_of(arguments([*given, "--rounding", "1" * 10])).root.name == "1" * 10
