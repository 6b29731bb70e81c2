"""`lethe mlflow sync`: versions in a real registry of MLflow, a SQLite file."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from lethe import Client, registry
from tests.support import QUICK_MODEL
from tests.trained import Trained

pytestmark = [
    pytest.mark.validation,
    pytest.mark.filterwarnings("ignore"),  # MLflow's own, and those of what it imports
]


def calls_of(trained: Trained) -> Client:
    calls = Client("http://test", trained.account.http.headers["Authorization"].removeprefix("Bearer "))
    calls._calls._http = trained.account.http  # type: ignore[attr-defined]
    return calls


def test_a_version_is_registered_once_and_the_alias_follows_the_current_one(trained: Trained, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/registry.db"
    calls, there = calls_of(trained), mlflow.MlflowClient(registry_uri=uri, tracking_uri=uri)
    first = registry.sync(calls, "m", uri=uri)
    assert first == {"name": "m", "registered": 1, "version": 1, "new": True, "tags": 0}
    version = trained.account.get(f"{trained.where}/versions/1")
    kept = there.get_model_version_by_alias("m", "production")
    assert kept.source == f"http://test/v1/models/{trained.model}/versions/1"
    assert kept.tags["lethe.digest"] == version["digest"]
    assert kept.tags["lethe.state"] == "current"
    assert kept.tags["lethe.accuracy_test"] == f"{version['metrics']['accuracy_test']:.4f}"
    assert registry.sync(calls, "m", uri=uri) == first | {"new": False}

    trained.forget(trained.ids[:2])
    second = registry.sync(calls, "m", uri=uri)
    assert (second["registered"], second["new"], second["tags"]) == (2, True, 1)
    kept = there.get_model_version_by_alias("m", "production")
    report = trained.account.get(f"{trained.where}/versions/2/audit")["report"]
    assert kept.tags["lethe.verdict"] == report["judgement"]["verdict"]
    assert kept.tags["lethe.parent"] == "1"
    assert there.get_model_version("m", "1").tags["lethe.state"] in ("superseded", "purged")
    assert len(there.search_model_versions("name='m'")) == 2


def test_what_cannot_be_registered(trained: Trained, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/registry.db"
    calls = calls_of(trained)
    trained.account.post("/v1/models", {"name": "empty", "dataset": trained.dataset, **QUICK_MODEL})
    with pytest.raises(registry.RegistryError, match="empty has no current version"):
        registry.sync(calls, "empty", uri=uri)
    there = mlflow.MlflowClient(registry_uri=uri, tracking_uri=uri)
    there.create_registered_model("own's", tags={"lethe.model": "mdl_another"})
    with pytest.raises(registry.RegistryError, match="own's is registered for mdl_another; say another name"):
        registry.sync(calls, "m", name="own's", uri=uri)
    there.create_registered_model("it's")
    assert registry.sync(calls, "m", name="it's", alias=None, uri=uri)["registered"] == 1
    assert there.get_registered_model("it's").aliases == {}
    with pytest.raises(registry.RegistryError, match="MLflow refused"):
        registry.sync(calls, "m", name="a/b", uri=uri)


def test_without_mlflow_the_extra_is_named(shared: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'")
        return real(name, *rest)

    monkeypatch.setattr(registry.importlib, "import_module", without)
    with pytest.raises(registry.RegistryError, match=r"install the extra, `pip install lethe-unlearning\[mlflow\]`"):
        registry.sync(calls_of(shared), "m")
