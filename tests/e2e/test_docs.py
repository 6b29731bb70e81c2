"""The examples of docs/api.md, run in their order against one service: Python in one namespace, shell in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import embedded, environment

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^<!-- run -->\n```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IDS = {"DATASET": "dataset", "MODEL": "model", "REQUEST": "request"}


@pytest.mark.slow
def test_the_examples_of_the_api_page_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) == PAGE.read_text().count("<!-- run -->") >= 20
    folder = tmp_path / "lethe-data"
    names: dict[str, Any] = {"RECEIVER": "http://127.0.0.1:9/events"}
    monkeypatch.chdir(tmp_path)
    said = []
    with embedded(folder, webhooks_to_private="true"), ExitStack() as stack:
        stack.callback(lambda: names["lethe"].close())
        for language, code in blocks:
            if language == "python":
                exec(compile(code, "docs/api.md", "exec"), names)
                said.append(capsys.readouterr().out)
                continue
            ids = {variable: names[name]["id"] for variable, name in IDS.items() if name in names}
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            env = environment(folder) | ids | {"PATH": path}
            done = subprocess.run(["bash", "-euc", code], cwd=tmp_path, env=env, capture_output=True, text=True)
            assert done.returncode == 0, code + done.stdout + done.stderr
            said.append(done.stdout)
    text = "\n".join(said)
    for word in (
        "404 not-found",
        "'amun'",
        "304",
        "412 precondition-failed True",
        "fulfilled",
        "0 409 sample-erased",
        "1 202 None",
        "whsec_",
        "another office",
    ):
        assert word in text, word
    assert "The certificate is verified." in text
    assert (tmp_path / "register.csv").read_text().count("\n") >= 4
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000


@pytest.fixture
def operations(tmp_path: Path) -> Any:
    from app.core.config import Settings
    from app.main import create_app

    return create_app(Settings(data_dir=tmp_path)).openapi()["paths"]


def test_the_page_names_every_resource(operations: Any) -> None:
    text = PAGE.read_text().lower()
    tags = {str(tag) for item in operations.values() for each in item.values() for tag in each.get("tags", [])}
    assert len(tags) >= 10
    for tag in tags:
        assert f"\n## {tag}" in text, tag


def test_the_page_names_every_path_and_every_query(operations: Any) -> None:
    """A path by the last word in it, such as `/aliases` or `:promote`."""
    text = PAGE.read_text()
    for path, item in operations.items():
        step = re.findall(r"[/:][\w.-]+", re.sub(r"{\w+}", "", path))[-1]
        assert step in text, path
        for operation in item.values():
            for query in (each["name"] for each in operation.get("parameters", []) if each["in"] == "query"):
                assert f"`{query}`" in text, (path, query)
