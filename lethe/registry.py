"""Versions in a registry of MLflow: registered with tags, and an alias that follows the current one.

The weights stay with the service; a registered version says where they are. Needs the extra `mlflow`.
"""

from __future__ import annotations

import importlib
from typing import Any

from lethe.client import Client
from lethe.errors import LetheError, ProblemError
from lethe.types import Json, Model, Version

TAG = "lethe.version_id"
"""Names the version of the service that a registered one stands for."""
ORIGINS = ("trained", "imported", "unlearned")


class RegistryError(LetheError):
    """MLflow is missing or refused."""


def sync(
    calls: Client, model: str, *, name: str | None = None, alias: str | None = "production", uri: str | None = None
) -> Json:
    """Register the current version of a model, bring the tags of all registered ones up to date, and move the alias.

    name: of the registered model; None: the model's. alias: None: leave aliases alone. uri: of the registry; None: as
    MLflow's settings have it. Done again it changes nothing. Returns the registered model's `name`, the registry's
    number of the current version (`registered`), whether it is new, and how many versions had other `tags`.

    Raises:
        RegistryError: MLflow is not installed, or refused; the model has no current version.
    """
    found = calls.models.get(model)
    number = found["current_version"]
    if number is None:
        raise RegistryError(f"{found['name']} has no current version")
    mlflow = _mlflow()
    try:
        return _sync(mlflow.MlflowClient(registry_uri=uri, tracking_uri=uri), mlflow, calls, found, name, alias, number)
    except mlflow.exceptions.MlflowException as error:
        raise RegistryError(f"MLflow refused: {error}") from error


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise RegistryError(
            f"MLflow cannot be imported ({error}): install the extra, `pip install lethe-unlearning[mlflow]`"
        ) from None


def _sync(
    registry: Any, mlflow: Any, calls: Client, model: Model, name: str | None, alias: str | None, number: int
) -> Json:
    called = name or model["name"]
    _require_model(registry, mlflow, called, model)
    there = {each.tags[TAG]: each for each in _registered(registry, called) if TAG in each.tags}
    new, changed = False, 0
    for version in calls.versions.list(model["id"]):
        tags = _tags(calls, model, version)
        known = there.get(version["id"])
        if known is None:
            if version["number"] != number:
                continue
            where = f"{calls.url}/v1/models/{model['id']}/versions/{number}"
            known = registry.create_model_version(called, source=where, tags=tags)
            there[version["id"]], new = known, True
            continue
        other = {key: value for key, value in tags.items() if known.tags.get(key) != value}
        for key, value in other.items():
            registry.set_model_version_tag(called, known.version, key, value)
        changed += bool(other)
    registered = next(each for each in there.values() if each.tags.get("lethe.version") == str(number))
    if alias is not None and not _means(registry, mlflow, called, alias, registered.version):
        registry.set_registered_model_alias(called, alias, registered.version)
    return {"name": called, "registered": int(registered.version), "version": number, "new": new, "tags": changed}


def _require_model(registry: Any, mlflow: Any, called: str, model: Model) -> None:
    """The registered model of that name, made if it is not there; not that of another model."""
    try:
        there = registry.get_registered_model(called)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        registry.create_registered_model(called, tags={"lethe.model": model["id"]})
        return
    owner = there.tags.get("lethe.model")
    if owner is None:
        registry.set_registered_model_tag(called, "lethe.model", model["id"])
    elif owner != model["id"]:
        raise RegistryError(f"{called} is registered for {owner}; say another name")


def _registered(registry: Any, called: str) -> list[Any]:
    quoted = "'" + called.replace("'", "''") + "'"
    found, token = [], None
    while True:
        page = registry.search_model_versions(f"name={quoted}", max_results=200, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _means(registry: Any, mlflow: Any, called: str, alias: str, version: str) -> bool:
    try:
        return bool(registry.get_model_version_by_alias(called, alias).version == version)
    except mlflow.exceptions.MlflowException:
        return False


def _tags(calls: Client, model: Model, version: Version) -> dict[str, str]:
    tags = {
        TAG: version["id"],
        "lethe.model": model["id"],
        "lethe.version": str(version["number"]),
        "lethe.digest": version["digest"],
        "lethe.state": version["state"],
        "lethe.origin": version["origin"],
    }
    accuracy = version["metrics"].get("accuracy_test")
    if accuracy is not None:
        tags["lethe.accuracy_test"] = f"{accuracy:.4f}"
    if version["parent"] is not None:
        tags["lethe.parent"] = str(version["parent"])
    if version["origin"] == "unlearned" and (verdict := _verdict(calls, model, version)) is not None:
        tags["lethe.verdict"] = verdict
    return tags


def _verdict(calls: Client, model: Model, version: Version) -> str | None:
    try:
        return str(calls.versions.audit(model["id"], version["number"])["report"]["judgement"]["verdict"])
    except ProblemError as error:
        if error.status != 404:
            raise
        return None
