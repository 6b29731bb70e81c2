"""Commands for a registry of MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from lethe import registry
from lethe.cli.common import AsJson, client, group, show
from lethe.cli.models import ModelId

mlflow = group("A registry of MLflow: register versions, move its alias.")


@mlflow.callback()
def _several() -> None:
    """Keeps `sync` a command of the group."""


@mlflow.command("sync")
def sync(
    thing: ModelId,
    name: Annotated[str | None, typer.Option(help="Of the registered model; else the model's.")] = None,
    alias: Annotated[str, typer.Option(help="The alias that follows the current version; empty: none.")] = "production",
    registry_uri: Annotated[
        str | None, typer.Option(help="Of the registry; else as MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register the current version with tags, and move the alias to it.

    Tags of versions that are registered already are brought up to date: verdict, state. The weights stay here.
    """
    with client() as calls:
        show(registry.sync(calls, thing, name=name, alias=alias or None, uri=registry_uri), as_json=as_json)
