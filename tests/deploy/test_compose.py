"""docker-compose.yml: what each part may do, which secrets it holds, and whom it reaches."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.config import Settings
from app.evidence import signing

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PARTS = ("migrate", "api", "worker", "sweeper")

SECRETS = {
    "postgres": {"postgres_password"},
    "redis": {"redis_password"},
    "migrate": {"lethe_database_url"},
    "api": {"lethe_database_url", "lethe_broker_url", "lethe_secret"},
    "worker": {"lethe_database_url", "lethe_broker_url", "lethe_secret"},
    "sweeper": {"lethe_database_url", "lethe_broker_url", "lethe_secret", "lethe_signing_key"},
}
NETWORKS = {
    "postgres": {"database"},
    "redis": {"broker"},
    "migrate": {"database"},
    "api": {"database", "broker", "front"},
    "worker": {"database", "broker", "downloads"},
    "sweeper": {"database", "broker", "webhooks"},
}
VOLUMES = {
    "postgres": {"postgres:/var/lib/postgresql/data"},
    "redis": set(),
    "migrate": {"keys:/keys"},
    "api": {"data:/data"},
    "worker": {"data:/data"},
    "sweeper": {"data:/data", "erasures:/erasures"},
}


def test_each_part_holds_reaches_and_mounts_what_it_needs_and_no_more() -> None:
    assert {name: set(service["secrets"]) for name, service in SERVICES.items()} == SECRETS
    assert {name: set(service["networks"]) for name, service in SERVICES.items()} == NETWORKS
    assert {name: set(service.get("volumes", ())) for name, service in SERVICES.items()} == VOLUMES
    assert COMPOSE["secrets"].keys() == set().union(*SECRETS.values())
    assert COMPOSE["networks"].keys() == set().union(*NETWORKS.values())
    assert [name for name, network in COMPOSE["networks"].items() if network] == ["database", "broker"]
    assert all(COMPOSE["networks"][name] == {"internal": True} for name in ("database", "broker"))
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_walls(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert "cap_add" not in service
    assert "privileged" not in service
    assert any(re.fullmatch(r"/tmp:size=\d+m", place) for place in service["tmpfs"])
    assert re.fullmatch(r"(\$\{WORKER_MEMORY:-)?\d+g\}?", service["mem_limit"])
    assert service["pids_limit"] <= 1024
    if name in PARTS:
        assert service["build"]["target"] == ("worker" if name == "worker" else "api")
    else:
        assert service["user"] == name


def test_no_secret_is_in_a_variable_or_a_command() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert name.endswith("_FILE") or not re.search("SECRET|PASSWORD|KEY|URL", name)
    named = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    assert not [name for name in named if re.search("SECRET|PASSWORD|KEY", name)]
    assert "requirepass $$(cat /run/secrets/redis_password)" in SERVICES["redis"]["command"][-1]


def test_the_secrets_are_made_once_and_the_parts_can_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy/secrets.sh", folder], check=True, umask=0)
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found.keys() == COMPOSE["secrets"].keys()
    assert {name: entry["file"] for name, entry in COMPOSE["secrets"].items()} == {n: f"secrets/{n}" for n in found}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert len({value for name, value in found.items() if not name.endswith("_url")}) == 4
    monkeypatch.setattr("app.core.config.SECRETS_DIR", folder)
    settings = Settings()
    assert len(settings.secret_bytes()) == 64
    assert settings.resolved_database_url.password == found["postgres_password"].strip()
    assert settings.broker_url == f"redis://:{found['redis_password'].strip()}@redis:6379/0"
    assert signing.load(settings.signing_key.get_secret_value(), tmp_path).id.startswith("sha256:")
    subprocess.run([ROOT / "deploy/secrets.sh", folder], check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == found, "a second run changes nothing"


def test_secrets_of_an_earlier_installation_are_taken_over(tmp_path: Path) -> None:
    given = {"LETHE_SECRET": "kept since 0.1", "POSTGRES_PASSWORD": "abc", "PATH": "/usr/bin:/bin"}
    subprocess.run([ROOT / "deploy/secrets.sh", tmp_path / "secrets"], check=True, env=given)
    assert (tmp_path / "secrets/lethe_secret").read_text() == "kept since 0.1\n"
    assert (tmp_path / "secrets/lethe_database_url").read_text() == "postgresql://lethe:abc@postgres/lethe\n"
