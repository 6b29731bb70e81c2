"""Build hook that refuses an editable `lethe` beside another distribution's `lethe`: Python would import the other."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMESAKE = (
    "This environment has a package `lethe` of another distribution, which Python would import in place of this one: "
    "remove it with `pip uninstall lethe`, or install into a new virtual environment."
)


class RefuseNamesake(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        if version == "editable" and (Path(sysconfig.get_path("purelib")) / "lethe").is_dir():
            raise SystemExit(NAMESAKE)
