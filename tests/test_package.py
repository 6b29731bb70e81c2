"""The package: what the wheel holds and needs, how it works alone, and what one reads where it cannot be installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import hatchling.build
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.main import create_app
from lethe.cli import main
from tests.app.evidence.test_certificate import KEY, facts, issue

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
LOCKS = ("api", "service", "dev")


# -- the wheel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, env=os.environ | NO_INDEX)
    [found] = folder.iterdir()
    return found


def described(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_lethe_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"lethe_unlearning-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"lethe", info}
    files = {path for path in (ROOT / "lethe").rglob("*") if path.suffix in (".py", ".typed")}
    assert {name for name in names if name.startswith("lethe/")} == {str(path.relative_to(ROOT)) for path in files}
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    found = described(wheel)
    assert (found["Name"], found["Version"]) == ("lethe-unlearning", PROJECT["version"])
    assert found["License-Expression"] == "Apache-2.0"
    every = [Requirement(text) for text in found.get_all("Requires-Dist", [])]
    assert {each.name for each in every if each.marker is not None} == {"mlflow-skinny"}
    needed = {each.name for each in every if each.marker is None}
    assert needed == {"cryptography", "httpx", "rich", "typer"}


def test_on_another_python_pip_says_which_is_needed(wheel: Path, tmp_path: Path) -> None:
    asked = ["download", "--no-deps", "--only-binary=:all:", "--dest", tmp_path, "--python-version"]
    for version in ("3.10", "3.13"):
        command = [sys.executable, "-m", "pip", *asked, version, wheel]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | NO_INDEX)
        assert done.returncode == 1
        assert f"requires a different Python: {version}" in done.stderr
        assert "<3.13,>=3.11" in done.stderr


def test_beside_another_lethe_an_editable_install_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lethe").mkdir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(SystemExit, match="pip uninstall lethe"):
        hatchling.build.build_editable(str(tmp_path))
    (tmp_path / "lethe").rmdir()
    editable = tmp_path / hatchling.build.build_editable(str(tmp_path))
    with zipfile.ZipFile(editable) as archive:  # it puts the checkout on the path, and with it the service
        [path] = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".pth")]
    assert path.strip() == str(ROOT)


# -- the wheel alone in an environment -------------------------------------------------------------


def closure(requirements: list[str]) -> Iterator[metadata.Distribution]:
    """The distributions that these requirements bring, from those of this environment."""
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        requirement = waiting.pop()
        if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or requirement.name in seen:
            continue
        seen.add(requirement.name)
        found = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found.version), requirement
        waiting += [Requirement(text) for text in found.requires or ()]
        yield found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel, the four dependencies, what these need, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for distribution in closure(described(wheel).get_all("Requires-Dist", [])):
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)
    pip = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(pip, check=True, env=os.environ | NO_INDEX)
    return folder / "bin"


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LETHE_", "PYTHON"))}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_an_auditor_verifies_a_certificate(alone: Path, tmp_path: Path) -> None:
    _, envelope = issue(facts())
    (tmp_path / "certificate.json").write_text(json.dumps(envelope))
    (tmp_path / "key.pem").write_text(KEY.public_pem)
    forged = json.loads(json.dumps(envelope))
    forged["signatures"][0]["sig"] = "A" * 86 + "=="
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    for verifier in ([alone / "lethe", "verify"], [alone / "python", "-m", "lethe.verify"]):
        done = call(*verifier, "certificate.json", "--key", "key.pem", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The certificate is verified." in done.stdout
        assert call(*verifier, "forged.json", "--key", "key.pem", cwd=tmp_path).returncode == 1


def test_neither_torch_nor_the_service_is_there(alone: Path, tmp_path: Path) -> None:
    for name in ("torch", "app", "engine", "experiments", "worker", "migrations", "numpy", "fastapi", "sqlalchemy"):
        done = call(alone / "python", "-c", f"import {name}", cwd=tmp_path)
        assert f"No module named '{name}'" in done.stderr
    for name in ("lethe", "lethe.plugins", "lethe.types"):
        assert call(alone / "python", "-c", f"import {name}", cwd=tmp_path).returncode == 0


def test_the_client_s_commands_work_and_the_service_s_say_where_they_are(alone: Path, tmp_path: Path) -> None:
    assert call(alone / "lethe", "--version", cwd=tmp_path).stdout == f"lethe {PROJECT['version']}\n"
    shown = call(alone / "lethe", "--help", cwd=tmp_path).stdout
    assert re.search(r"^ +request ", shown, re.MULTILINE)
    assert not re.search(r"^ +serve ", shown, re.MULTILINE)
    done = call(alone / "lethe", "serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "run from its checkout after `make install`, or from its image" in " ".join(done.stderr.split())
    done = call(alone / "lethe", "status", cwd=tmp_path)
    assert done.returncode == 1
    assert "set LETHE_API_KEY" in done.stderr


# -- the command line of a checkout ----------------------------------------------------------------


def test_the_command_runs_from_any_folder(tmp_path: Path) -> None:
    done = call(Path(sys.executable).parent / "lethe", "serve", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--workers" in done.stdout


def test_completion_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_LETHE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lethe ser")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main.commands()(prog_name="lethe")
    assert capsys.readouterr().out.split() == ["serve"]


def test_the_version_is_written_once() -> None:
    assert create_app().version == metadata.version(main.DISTRIBUTION) == PROJECT["version"]


# -- locked dependencies ---------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each distribution of a lock."""
    found = {}
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        pinned = re.match(r"(\S+?)(?:\[\S+\])?==(\S+)", block)
        assert pinned, block
        found[canonicalize_name(pinned[1])] = pinned[2], block.count("--hash=sha256:")
    return found


def asked(name: str) -> set[str]:
    """What a requirements file and those that it includes ask for."""
    found: set[str] = set()
    for line in (ROOT / "requirements" / f"{name}.in").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found |= asked(text.removeprefix("-r ").removesuffix(".in"))
        elif text:
            found.add(canonicalize_name(Requirement(text).name))
    return found


def test_every_lock_has_hashes_and_names_no_index() -> None:
    for name in LOCKS:
        assert all(hashes for _, hashes in locked(name).values())
        assert "http" not in re.sub(r"(?m)^[a-z0-9-]*http\S*==", "", (ROOT / f"requirements/{name}.txt").read_text())


def test_each_lock_holds_what_is_asked_for_and_the_smaller_lock() -> None:
    base = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    for name in LOCKS:
        assert locked(name).keys() >= base | asked(name)
    assert locked("api").items() <= locked("service").items() <= locked("dev").items()


def test_torch_is_in_no_lock_and_what_it_needs_is_in_the_service_s() -> None:
    lines = (ROOT / "requirements/torch.txt").read_text().splitlines()
    torch = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert torch == {"torch", "torchvision"}
    assert not torch & locked("dev").keys()
    # Pillow is there for fpdf2 and for children: no process of the API opens a client's picture with it.
    assert not {"scipy", "scikit-learn", "safetensors", "pytest"} & locked("api").keys()
    assert not {"pytest", "ruff", "mypy"} & locked("service").keys()
    needed = {canonicalize_name(each.name) for name in torch for each in needs(name)}
    libraries = {name for name in needed if name.startswith(("nvidia-", "cuda-")) or name == "triton"}  # of CUDA builds
    assert needed - libraries - torch <= locked("service").keys()


def needs(name: str) -> list[Requirement]:
    found = [Requirement(text) for text in metadata.requires(name) or ()]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


@pytest.mark.slow
def test_without_an_index_make_says_what_to_do(tmp_path: Path) -> None:
    command = ["make", "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}", "TORCH_INDEX="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | NO_INDEX, timeout=300)
    assert done.returncode == 2
    assert "Check the network and the package index" in done.stderr
    assert not (tmp_path / "venv" / ".service").exists()


# -- images ----------------------------------------------------------------------------------------


def test_the_images_hold_what_they_run_and_run_without_rights() -> None:
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[2:]
    assert [stage.partition("\n")[0] for stage in stages] == ["base AS api", "base AS worker"]
    for stage in stages:
        assert re.findall(r"(?m)^(?:USER|CMD|RUN) .*", stage)[-2] == "USER lethe"
    copied = [set(re.findall(r"(?m)^COPY (\w+) ", stage)) for stage in stages]
    assert copied == [{"app", "lethe", "migrations"}, {"app", "engine", "experiments", "lethe", "migrations", "worker"}]
    assert "torch" not in stages[0]
