"""`lethe bench --scale tiny`, whole: killed, limited and shared it gives what the straight run gives."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import seeding
from experiments.computing import COMPUTE
from experiments.lab import Lab
from experiments.run import STUDIES, report, work
from experiments.scales import SCALES
from experiments.store import Store
from tests.support import eventually

ROOT = Path(__file__).parents[2]
PART = ["--scale", "tiny", "--study", "exactness", "--study", "theory"]
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def bench(out, studies, budget=None):
    scale, lab = SCALES["tiny"](""), Lab(Store(out, budget), torch.device("cpu"), COMPUTE)
    torch.set_num_threads(1)
    with seeding.deterministic():
        finished = work(lab, scale, studies)
        return finished, report(lab, scale, studies, "test", out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the results of a straight run of everything."""
    out = tmp_path_factory.mktemp("straight")
    finished, document = bench(out, list(STUDIES))
    assert finished
    return out, document


def figures(document):
    """By key; what was measured, not how long it took."""
    return {cell["key"]: cell["figures"] for cell in document["cells"]}


def start(out, *more, processes=1):
    command = [sys.executable, "-m", "experiments", *PART, "--out", str(out), "--processes", str(processes), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_every_study_has_its_figures_and_nothing_is_left_out(whole):
    out, document = whole
    assert set(document["studies"]) == set(STUDIES)
    page = (out / "results.md").read_text()
    missing = [line for line in page.splitlines() if "not measured" in line.lower()]
    assert missing == ["Not part of this scale: not measured."] * 2  # robust models and larger data
    assert json.loads((out / "results.json").read_text())["machine"]["torch"] == torch.__version__
    lines = gzip.decompress((out / "cells.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == document["cells"]
    for line in page.splitlines():
        if line.startswith("!["):
            plot = out / line[line.index("(") + 1 : line.index(")")]
            assert plot.read_bytes()[:4] == b"\x89PNG"
    assert not list((out / "states").iterdir())


def test_the_tables_avg_gap_is_that_of_its_columns_by_hand(whole):
    """From the cells as they stand in the results, in plain arithmetic."""
    document = whole[1]
    cells = {cell["key"]: cell for cell in document["cells"]}
    section = document["studies"]["tables"][0]
    line = next(row for row in section["tables"][0]["rows"] if row[0] == "AMUN")
    line = dict(zip(section["tables"][0]["columns"], line, strict=True))

    def reported(forget):
        return forget["share"] == 0.1 and forget["seed"] in (10, 100) and forget["parts"] == 1 and not forget["classes"]

    retrained, runs = [], []
    for cell in document["cells"]:
        spec = cell["cell"]
        if spec["kind"] != "Measured" or spec["epoch"]:
            continue
        subject = cells[spec["subject"]]["cell"]
        row = [cell["figures"][name] for name in ("ua", "ra", "ta", "ft")]
        if subject["kind"] == "Trained" and subject["without"] and not subject["run"]:
            if reported(subject["without"]):
                retrained.append(row)
        elif subject["kind"] == "Unlearned" and subject["method"]["name"] == "amun" and subject["remain"]:
            params = json.loads(subject["method"]["params"])
            attack = cells[subject["adversarial"]]["cell"]
            plain = not (subject["substitute"] or subject["by_epoch"] or subject["gone"])
            own = attack["attack"]["name"] == "pgd_l2" and cells[attack["model"]]["cell"].get("seed") == 1
            chosen = params["learning_rate"] == float(line["rate"].split(" ")[0]) and "fine_tuning_set" not in params
            if plain and own and chosen and params["epochs"] == 3 and reported(subject["forget"]):
                runs.append(row)
    assert len(retrained) == len(runs) == 2
    mean = [sum(column) / 2 for column in zip(*retrained, strict=True)]
    gaps = [sum(abs(a - b) for a, b in zip(row, mean, strict=True)) / 4 for row in runs]
    assert float(line["Avg. Gap"].split(" ")[0]) == pytest.approx(sum(gaps) / 2, abs=0.006)


def test_amun_does_what_it_is_for(whole):
    """FT-AUC falls from the untouched model's towards the retrained one's; test accuracy hardly moves."""
    rows = {row[0]: row for row in whole[1]["studies"]["tables"][0]["tables"][0]["rows"]}
    ft = {name: float(str(row[4]).split(" ")[0]) for name, row in rows.items()}
    assert ft["Retrain"] < ft["AMUN"] < ft["Original, untouched"]
    assert rows["Original, untouched"][3] - rows["AMUN"][3] < 4


def test_the_weak_and_the_fast_attack_are_told_apart_by_their_cost(whole):
    rows = {row[0]: row for row in whole[1]["studies"]["attacks"][0]["tables"][0]["rows"]}
    assert rows["fast_min_norm"][1] == rows["PGD-10, 0.04"][1] == 100.0
    assert 3 * rows["fast_min_norm"][4] < rows["PGD-10, 0.04"][4]


def test_a_study_by_itself_computes_what_its_rates_rest_on(whole, tmp_path):
    _, alone = bench(tmp_path, ["attacks"])
    section = alone["studies"]["attacks"][0]["tables"][0]
    assert [row[:4] + row[6:9] for row in section["rows"]] == [
        row[:4] + row[6:9] for row in whole[1]["studies"]["attacks"][0]["tables"][0]["rows"]
    ]


def test_equal_seeds_give_equal_figures(whole, tmp_path):
    _, again = bench(tmp_path, ["exactness", "theory"])
    straight = figures(whole[1])
    assert all(straight[name] == value for name, value in figures(again).items())


def folder_of_cells(out):
    """That of the machines that round as this one does."""
    (found,) = out.glob("*/cells")
    return found.parent


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_helper_computes_and_ends_with_it_and_killed_it_goes_on_and_computes_no_cell_twice(whole, tmp_path):
    process = start(tmp_path, processes=2)
    (helper,) = eventually(lambda: [pid for pid in children(process) if b"spawn_main" in cmdline(pid)], "a helper")
    eventually(lambda: list(tmp_path.glob("*/locks/*")), "the first claim: by then it knows what to do")
    process.send_signal(signal.SIGSTOP)  # what is computed from now on, the helper computes
    before = {path.name for path in tmp_path.glob("*/cells/*.json")}
    eventually(lambda: {path.name for path in tmp_path.glob("*/cells/*.json")} - before, "cells", patience=300)
    assert is_there(helper)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    eventually(lambda: not is_there(helper), "the helper's end", patience=60)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/cells/*.json")}
    assert 1 <= len(kept) < 9
    both = [start(tmp_path, processes=2), start(tmp_path)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    counted = [
        int(line.split(": ")[1].split(" ")[0]) for text in said for line in text.splitlines() if " cells in " in line
    ]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    documents = list(Store(folder_of_cells(tmp_path)).documents())
    straight = figures(whole[1])
    assert all(straight[each["key"]] == each["figures"] for each in documents)
    assert sum(counted) == len(documents) - len(kept) == 9 - len(kept)


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_at_the_time_limit_it_stops_with_a_report_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "--budget-seconds", "0")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 3
    assert "go on with the same command" in said
    assert "not measured" in (tmp_path / "results.md").read_text()


def test_the_command_line_hands_over_to_the_bench():
    done = subprocess.run(
        [sys.executable, "-c", "from lethe.cli.main import main; main()", "bench", "--help"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}, check=True,
    )  # fmt: skip
    assert "--budget-seconds" in done.stdout
    assert np.all([name in done.stdout for name in ("tiny", "small", "gpu30", "paper")])
