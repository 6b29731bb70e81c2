"""The examples of docs/bring-your-own.md, run as they stand: from what a script left to what it loads again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support import embedded

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
# torchvision's operators may not fit the installed torch; the script of a reader has one that does.
PREAMBLE = "from engine.data.torchvision_ops import import_torchvision\nimport_torchvision()\n"


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```(?:python|bash)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_from_a_training_script_to_an_unlearned_folder_that_it_loads(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PREAMBLE + example("train"))
    run([sys.executable, "train.py"], tmp_path)
    convert = example("convert").split()[2:]
    assert run([sys.executable, "-m", "engine.convert", *convert], tmp_path).startswith("sha256:")
    with embedded(tmp_path / "lethe-data") as service:
        assert run([sys.executable, "-c", example("import")], tmp_path) == "succeeded\nfulfilled"
        assert run([sys.executable, "-c", example("export")], tmp_path) == "True"
        report = service.versions.audit("reader", 2)["report"]
        assert report["references"]["models"] == 4
        stated = service.versions.get("reader", 1)["metrics"]["stated"]
        assert stated["difference"] < 0.005
