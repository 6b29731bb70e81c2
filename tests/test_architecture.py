"""The rules of the house, held by tests: who may import whom, and that the API never sees torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TOPS = ("app", "engine", "experiments", "lethe", "migrations", "worker")
# Whom each folder may import, besides itself. A trailing star: and what that one may import.
MAY_IMPORT = {
    "app.catalog": "lethe.plugins",
    "app.formats": "",
    "app.rules": "app.catalog",
    "app.core": "app.rules",
    "app.blobs": "app.core app.rules",
    "app.events": "app.core app.rules",
    "app.evidence": "app.core app.rules",
    "app.jobs": "app.core app.rules app.formats app.blobs app.events app.evidence",
    "app.datasets": "app.jobs* app.catalog app.formats",
    "app.reports": "app.jobs app.core app.rules app.formats",
    "app.models": "app.datasets*",
    "app.deletions": "app.models*",
    "app.releases": "app.deletions* app.reports",
    "app.cases": "app.deletions* app.reports lethe.verify",
    "app.recovery": "app.deletions*",
    "app.operations": "app.recovery* app.cases* app.releases* migrations",
    "app.api": "app.operations* app.releases* app.main",
    "app.console": "app.api app.core app.rules app.formats app.reports",
    "app.main": "app.api* app.console",
    "app.cli": "lethe app.operations app.recovery app.core app.jobs app.rules",
    "engine": "app.catalog app.formats",
    "experiments": "engine app.catalog app.formats",
    "worker": "engine app.releases* app.operations.parent_watch",
    "lethe": "",
    "migrations": "app.core",
}


def allowed(place: str) -> set[str]:
    """Whom the files of `place` may import."""
    found = {place}
    for name in MAY_IMPORT[place].split():
        found |= allowed(name[:-1]) if name.endswith("*") else {name}
    return found


def place_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "app" else parts[0]


@cache
def files() -> dict[str, Path]:
    """Every module of ours with its file."""
    paths = [path for top in TOPS for path in (ROOT / top).rglob("*.py") if "versions" not in path.parts]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, wherever the import stands; what only annotations need is none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in files() else node.module for name in names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports(node)


@cache
def imported() -> dict[str, set[str]]:
    return {name: set(imports(ast.parse(path.read_text()))) for name, path in files().items()}


def test_each_folder_imports_only_whom_it_may() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in imported().items()
        if name not in TOPS and name != "app.__main__"
        for other in others
        if other.split(".")[0] in TOPS and not {place_of(other), other} & allowed(place_of(name))
    ]
    assert wrong == []


def test_every_folder_is_in_the_table() -> None:
    folders = {place_of(name) for name in files() if name not in TOPS} - {"app.__main__"}
    assert folders == MAY_IMPORT.keys()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor from inside a function, where a circle would only be hidden."""
    graph = {name: files().keys() & others for name, others in imported().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_neither_app_nor_lethe_imports_torch() -> None:
    heavy = {"torch", "torchvision", "safetensors", "timm", "transformers"}
    wrong = [
        name
        for name, others in imported().items()
        if name.split(".")[0] in ("app", "lethe") and heavy & {other.split(".")[0] for other in others}
    ]
    assert wrong == []


def test_the_engine_imports_no_database() -> None:
    wrong = [
        name
        for name, others in imported().items()
        if name.split(".")[0] in ("engine", "experiments")
        and {"sqlalchemy", "boto3", "celery", "redis", "fastapi"} & {other.split(".")[0] for other in others}
    ]
    assert wrong == []


def test_the_running_api_has_loaded_neither_torch_nor_a_client() -> None:
    unwanted = {"torch", "worker", "engine", "httpx"}
    code = f"import sys, app.main; app.main.create_app(); print(*({unwanted} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


def test_only_the_database_module_commits() -> None:
    commits = {
        name
        for name, path in files().items()
        if not name.startswith("lethe") and ".commit()" in path.read_text().replace("writer.commit()", "")
    }
    assert commits == {"app.core.db"}


def test_only_the_settings_read_the_environment() -> None:
    readers = {name for name, path in files().items() if "os.environ" in path.read_text()}
    # They hand an environment to a child, or a library's switch to itself, or know what every program knows.
    assert readers <= {
        "app.blobs.s3",  # SSL_CERT_FILE
        "app.cli.demo",
        "app.core.config",  # systemd's folder of secrets
        "app.formats.child",
        "app.formats.sandbox",
        "app.jobs.devices",
        "app.operations.parent_watch",
        "app.operations.supervisor",
        "app.recovery.backup",
        "engine.seeding",
        "lethe.cli.settings",
        "lethe.transport",  # SSL_CERT_FILE, SSL_CERT_DIR
        "worker.loop",
    }


def test_compose_runs_the_commands_that_the_end_to_end_test_runs() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name: services[name]["command"] for name in ("migrate", "api", "worker", "sweeper")} == {
        "migrate": "migrate",
        "api": "api",
        "worker": "worker",
        "sweeper": "sweep",
    }
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["lethe"]' in dockerfile
    support = (ROOT / "tests/support.py").read_text()
    assert '"migrate"' in support
    assert '("api", "sweep", *["worker"] * workers)' in support
