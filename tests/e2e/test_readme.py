"""The README's own example, run as it stands against a service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import embedded

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_main_job_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- example: main job -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    with embedded(tmp_path / "lethe-data"):
        done = subprocess.run([sys.executable, "-c", found.group(1)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "fulfilled"
    assert done.stdout.split()[1:] in (["pass"], ["fail"], ["inconclusive"])
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000
