"""deploy/kubernetes: every manifest fits the schema of its kind, has walls, and holds no more than its part needs."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml
from typer.testing import CliRunner

from app.cli.main import cli
from app.core import db
from app.core.config import Settings
from app.core.db import Database
from app.core.tables import Job, Tenant
from tests.conftest import POSTGRES
from tests.deploy.test_compose import SECRETS
from tests.support import scratch_database

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
VERSION = "1.33"
Manifest = dict[str, Any]


def read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
ALL = [manifest for name in FILES for manifest in read(name)]
PODS = {each["metadata"]["name"]: each["spec"]["template"] for each in ALL if each["kind"] in ("Deployment", "Job")}
PARTS = {"lethe-api": "api", "lethe-sweeper": "sweeper", "lethe-migrate": "migrate"} | dict.fromkeys(
    ("lethe-worker", "lethe-worker-gpu"), "worker"
)
STORAGE = {"lethe_s3_access_key", "lethe_s3_secret_key"}


def of_kind(kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each["spec"] for each in ALL if each["kind"] == kind}


def container(pod: str) -> Manifest:
    [found] = PODS[pod]["spec"]["containers"]
    return found


# -- what is well-formed ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_fits_the_schema_of_its_kind(name: str) -> None:
    for manifest in read(name):
        if manifest["apiVersion"].startswith("keda.sh/"):  # not Kubernetes' own: below
            continue
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_schema_finds_a_slip() -> None:
    manifest = read("api.yaml")[0]
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_each_file_is_named_once_and_images_have_digests() -> None:
    named = []
    for path in FOLDER.rglob("kustomization.yaml"):
        document = yaml.safe_load(path.read_text())
        named += [str((path.parent / name).relative_to(FOLDER)) for name in document["resources"]]
        assert document["kind"] == ("Kustomization" if path.parent == FOLDER else "Component")
        for image in document.get("images", ()):
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", image["digest"])
    assert sorted(named) == FILES
    images = {image["name"] for image in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]}
    assert {container(name)["image"] for name in PODS} == images
    names = [(each["kind"], each["metadata"]["name"]) for each in ALL]
    assert len(set(names)) == len(names)
    assert not any("namespace" in each["metadata"] for each in ALL)


def test_what_is_selected_is_there() -> None:
    labels = {name: template["metadata"]["labels"] for name, template in PODS.items()}
    budgets, services = of_kind("PodDisruptionBudget"), of_kind("Service")
    chosen = [*(spec["selector"]["matchLabels"] for spec in [*budgets.values(), *of_kind("Deployment").values()])]
    for wanted in [*chosen, *(spec["selector"] for spec in services.values())]:
        assert any(wanted.items() <= found.items() for found in labels.values())
    assert budgets.keys() == of_kind("Deployment").keys()
    assert services.keys() == {"lethe-api"}, "one called `lethe` would set LETHE_PORT in other pods"
    assert of_kind("ScaledObject")["lethe-worker"]["scaleTargetRef"]["name"] in of_kind("Deployment")
    [https] = of_kind("NetworkPolicy")["lethe-https"]["podSelector"]["matchExpressions"]
    assert set(https["values"]) == PODS.keys() - {"lethe-migrate"}


# -- what a part may and holds ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PODS)
def test_each_pod_has_walls_limits_and_no_way_to_the_cluster(name: str) -> None:
    pod, only = PODS[name]["spec"], container(name)
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["limits"]["memory"] == only["resources"]["requests"]["memory"]
    assert PODS[name]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lethe"  # the policy that denies
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in only["volumeMounts"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_each_pod_holds_the_secrets_that_its_part_needs_by_reference_and_as_files() -> None:
    for name, part in PARTS.items():
        held = {}
        for volume in PODS[name]["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                held |= {item["path"]: source["secret"]["name"] for item in source["secret"]["items"]}
        assert held.keys() == SECRETS[part] | (STORAGE if part != "migrate" else set())
        assert [path for path, secret in held.items() if secret == "lethe-signing"] == (
            ["lethe_signing_key"] if part == "sweeper" else []
        )
        assert not any("valueFrom" in variable for variable in container(name).get("env", ()))
    assert PODS.keys() == PARTS.keys()
    assert not [each for each in ALL if each["kind"] == "Secret"]


def test_every_command_and_setting_exists() -> None:
    known = {f"LETHE_{name.upper()}" for name in Settings.model_fields}
    assert known >= {name.upper() for held in SECRETS.values() for name in held | STORAGE if name.startswith("lethe_")}
    [settings] = [each["data"] for each in ALL if each["kind"] == "ConfigMap"]
    used = {variable["name"] for name in PODS for variable in container(name).get("env", ())}
    assert used | settings.keys() <= known
    for name in PODS:
        assert CliRunner().invoke(cli, [*container(name)["args"], "--help"]).exit_code == 0


def test_the_api_is_asked_whether_it_lives_and_is_ready() -> None:
    api = container("lethe-api")
    probes = {name: api[name]["httpGet"]["path"] for name in api if name.endswith("Probe")}
    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert api["ports"] == [{"name": "http", "containerPort": Settings().port}]


# -- scaling ---------------------------------------------------------------------------------------


def wanted(query: str, url: str) -> int:
    with psycopg.connect(url) as connection:
        [[found]] = connection.execute(query).fetchall()
    return int(found)


@pytest.mark.services
def test_workers_follow_the_age_of_the_queue(migrated: str) -> None:
    scaled = of_kind("ScaledObject")["lethe-worker"]
    [trigger] = scaled["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("postgresql", "AverageValue")
    assert trigger["metadata"]["targetQueryValue"] == "1"
    assert trigger["authenticationRef"]["name"] in of_kind("TriggerAuthentication")
    assert scaled["minReplicaCount"] <= scaled["maxReplicaCount"]
    query = trigger["metadata"]["query"]
    with scratch_database(POSTGRES, migrated) as url:
        database = Database(Settings(database_url=url))
        with database.write() as session:
            session.add(Tenant(id="ten_first", name="first", created_at=db.now(session)))
        assert wanted(query, url) == 0

        def add(lane: str, state: str, minutes: float) -> None:
            with database.write() as session:
                since = db.now(session) - timedelta(minutes=minutes)
                common = {"tenant_id": "ten_first", "kind": "train", "params": {}, "seed": 1}
                name = f"job_{lane}_{minutes}".replace(".", "_")
                session.add(Job(id=name, lane=lane, state=state, created_at=since, available_at=since, **common))

        add("b", "queued", 0.1)
        assert wanted(query, url) == 1, "the first is wanted at once"
        add("c", "queued", 2.5)
        assert wanted(query, url) == 2, "three minutes, but two jobs"
        for lane in "defg":
            add(lane, "queued", 2.5)
        assert wanted(query, url) == 3, "one for each minute that was begun"
        add("a", "running", 9)
        add("a", "queued", 90)
        assert wanted(query, url) == 4, "the running job keeps its worker, and what waits for it wants none"
        add("h", "queued", -5)
        assert wanted(query, url) == 4, "what is not due yet wants none"
        database.close()
