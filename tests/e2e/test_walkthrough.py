"""The walk-through, run as it stands: from the first model to the hundredth deletion."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_through_runs_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "docs/walkthrough.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 12
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    env = clean | {"LETHE_PORT": "0", "PATH": path, "PYTHONPATH": str(ROOT)}
    script = "set -euo pipefail\n" + "\n".join(blocks)
    log = tmp_path / "said.txt"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=tmp_path, env=env, stdout=said, stderr=said, process_group=0
        )
        try:
            code = process.wait(880)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    words = log.read_text()
    assert code == 0, words[-6000:]
    assert "The certificate is verified." in (tmp_path / "verified.txt").read_text()
    assert "fulfilled" in (tmp_path / "restored.txt").read_text()
    assert len((tmp_path / "register.csv").read_text().splitlines()) == 101
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000
    told = json.loads(re.findall(r"^(\{'.*\})$", words, re.MULTILINE)[-1].replace("'", '"'))
    assert told["request.accepted"] == told["request.fulfilled"] == told["request.published"] == 100
    assert told["version.unlearned"] == 1
    for line in (tmp_path / "service.log").read_text().splitlines():
        assert "scan-" not in line
        assert "writer-" not in line
        json.loads(line)
