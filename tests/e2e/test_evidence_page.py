"""The worked example of docs/evidence.md, run as it is written: the verifier says what the page says that it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_worked_example_prints_what_the_page_shows(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert [language for language, _ in blocks] == ["bash", "text", "bash", "text"]
    (tmp_path / "lethe").mkdir()
    (tmp_path / "lethe" / "verify.py").write_bytes((ROOT / "lethe" / "verify.py").read_bytes())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    script = "set -eu\n" + "\n".join(code for language, code in blocks if language == "bash")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "".join(text for language, text in blocks if language == "text")
