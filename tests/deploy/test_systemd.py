"""deploy/systemd: units that systemd accepts, behind walls, for commands and settings that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.core.config import Settings
from tests.deploy.test_compose import SECRETS

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
PARTS = {
    "lethe-api.service": "api",
    "lethe-worker@.service": "worker",
    "lethe-sweeper.service": "sweeper",
    "lethe-migrate.service": "migrate",
}
WALLS = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "User": "lethe",
}
# Keys of the manual pages systemd.unit, systemd.service, systemd.exec and systemd.resource-control that units here use.
KNOWN = {
    "Unit": "Description Documentation PartOf Requires After Wants",
    "Install": "WantedBy",
    "Service": "Type ExecStart User Group WorkingDirectory StateDirectory StateDirectoryMode Environment"
    " EnvironmentFile LoadCredential Restart RestartSec RemainAfterExit TimeoutStopSec PrivateDevices DevicePolicy"
    " DeviceAllow ProtectClock ProtectHostname ProtectKernelLogs ProtectKernelModules RestrictRealtime RestrictSUIDSGID"
    " LockPersonality RemoveIPC SystemCallArchitectures SystemCallErrorNumber MemoryMax TasksMax " + " ".join(WALLS),
}


def read(name: str) -> dict[str, dict[str, list[str]]]:
    """Values by section and key; a key may be given more than once."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def test_units_have_known_sections_and_keys() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*PARTS, "lethe.target"}
    for name in (*PARTS, "lethe.target"):
        for section, keys in read(name).items():
            assert set(keys) <= set(KNOWN[section].split()), name


@pytest.mark.parametrize(("name", "part"), PARTS.items())
def test_a_unit_runs_a_command_that_exists_behind_walls(name: str, part: str) -> None:
    service = read(name)["Service"]
    [start] = service["ExecStart"]
    program, *arguments = start.split()
    assert program == "/opt/lethe/.venv/bin/lethe"
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0
    assert arguments == [{"sweeper": "sweep"}.get(part, part)]
    assert {key: service[key] for key in WALLS} == {key: [value] for key, value in WALLS.items()}
    assert service.get("PrivateDevices" if part != "worker" else "DevicePolicy") == [
        "yes" if part != "worker" else "closed"
    ]
    for variable in service["Environment"]:
        assert variable.partition("=")[0].removeprefix("LETHE_").lower() in Settings.model_fields
    assert service["MemoryMax"]


def test_each_unit_holds_the_secrets_that_its_part_needs() -> None:
    for name, part in PARTS.items():
        given = read(name)["Service"]["LoadCredential"]
        signs = "lethe_signing_key:/etc/lethe/signing-key.pem"
        assert (signs in given) == ("lethe_signing_key" in SECRETS[part])
        rest = "lethe_database_url:/etc/lethe/credentials/database_url"
        assert set(given) - {signs} == {rest if part == "migrate" else "lethe:/etc/lethe/credentials"}


def test_nothing_starts_before_the_migration() -> None:
    for name in PARTS.keys() - {"lethe-migrate.service"}:
        unit = read(name)["Unit"]
        assert "lethe-migrate.service" in unit["After"][0]
        assert unit["Requires"] == ["lethe-migrate.service"]
        assert read(name)["Install"]["WantedBy"] == unit["PartOf"] == ["lethe.target"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        text = path.read_text().replace("/opt/lethe/.venv/bin/lethe", "/bin/true").replace("=/opt/lethe\n", "=/\n")
        (tmp_path / path.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
