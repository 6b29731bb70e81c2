"""The settings of the service's commands, and what hinders these from starting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.config import Settings, StartError, get_settings
from lethe.cli.common import die


@contextmanager
def starting() -> Iterator[None]:
    """What hinders a command from starting ends this program with a sentence."""
    try:
        yield
    except StartError as error:
        die(str(error))


def read_settings() -> Settings:
    """The settings of this process; wrong ones end it with a sentence."""
    with starting():
        return get_settings()
