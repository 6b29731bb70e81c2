"""The rules of the house, held by tests: who may import whom, and that the API never sees torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKER_MAY_USE = {
    "archives", "audit_rows", "blobs", "canaries", "catalog", "config", "datasets", "db", "devices", "erasure",
    "errors", "faults", "gate", "holders", "ids", "jobs", "ladder", "leash", "lifecycle", "logs", "manifest", "models",
    "policy", "pools", "positions", "presence", "publishing", "reports", "routing", "safetensors_header",
    "storage", "tables", "uploads", "versions",
}  # fmt: skip
LEAVES_MAY_USE = {"archives", "catalog", "lifecycle", "manifest", "reports", "safetensors_header", "uploads"}
LEAF_FOLDERS = ("architectures", "attacks", "methods", "audits", "data", "recipes", "bench")
LEAF_FILES = ("training", "evaluation", "seeding", "references", "checkpoints", "memory")
LEAVES = [
    *(path for folder in LEAF_FOLDERS for path in (ROOT / "worker" / folder).glob("*.py")),
    *(ROOT / "worker" / f"{name}.py" for name in LEAF_FILES),
]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def app_modules(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("app.")}


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=str)
def test_app_imports_neither_torch_nor_the_worker(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops.isdisjoint({"torch", "torchvision", "safetensors", "worker"})


def test_the_running_api_has_not_loaded_torch() -> None:
    code = "import sys, app.main; app.main.create_app(); print('torch' in sys.modules, 'worker' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", sorted((ROOT / "worker").rglob("*.py")), ids=str)
def test_the_worker_uses_only_its_side_of_app(path: Path) -> None:
    assert app_modules(path) <= WORKER_MAY_USE


@pytest.mark.parametrize("path", LEAVES, ids=str)
def test_leaves_touch_no_database_and_no_storage(path: Path) -> None:
    assert app_modules(path) <= LEAVES_MAY_USE


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor from inside a function, where a circle would only be hidden; what only annotations need is no tie."""
    paths = [path for folder in ("app", "worker", "lethe") for path in (ROOT / folder).rglob("*.py")]
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}

    def needs(tree: ast.AST) -> Iterator[str]:
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = ((node.module, f"{node.module}.{alias.name}") for alias in node.names)
                yield from (name if name in files else module for module, name in names if module)
            elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
                yield from needs(node)

    graph = {name: files.keys() & set(needs(ast.parse(path.read_text()))) for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_only_the_database_module_commits() -> None:
    commits = {
        path.relative_to(ROOT).as_posix()
        for folder in ("app", "worker")
        for path in (ROOT / folder).rglob("*.py")
        if ".commit()" in path.read_text().replace("writer.commit()", "")
    }
    assert commits == {"app/db.py"}


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("app", "worker", "lethe")
        for path in (ROOT / folder).rglob("*.py")
        if "os.environ" in path.read_text()
    }
    # The others hand an environment to a child, or a library's switch to itself.
    assert readers <= {
        "app/backup.py",
        "app/demo.py",
        "app/devices.py",
        "app/leash.py",
        "app/supervisor.py",
        "worker/loop.py",
        "worker/seeding.py",
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
