"""The settings of the service's commands."""

from __future__ import annotations

from pydantic import ValidationError

from app.core.config import Settings, get_settings
from lethe.cli.common import die


def read_settings() -> Settings:
    """The settings of this process; wrong ones end it with a sentence."""
    try:
        return get_settings()
    except ValidationError as error:
        faults = [f"LETHE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        die("the settings are wrong: " + "; ".join(faults))
