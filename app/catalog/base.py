"""What an entry of the catalog is, and the base of all parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
)

CLASS_NAME = r"^[^\x00-\x1f\x7f/\\]+$"


OPTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,39}$"


OPTION_TEXT = r"^[^\x00-\x1f\x7f]*$"


TORCHVISION_SET = r"^[A-Za-z0-9]{2,40}$"


POOLING = r"^[a-z_]{1,20}$"


WORDS = {
    CLASS_NAME: "a text without control characters, `/` and `\\`",
    OPTION_NAME: "1 to 40 of `A-Z`, `a-z`, `0-9` and `_`, no digit first",
    OPTION_TEXT: "a text without control characters",
    TORCHVISION_SET: "2 to 40 of `A-Z`, `a-z` and `0-9`",
    POOLING: "1 to 20 of `a-z` and `_`",
}
"""Each of these regular expressions in words, for people."""


class Params(BaseModel):
    """Base of all parameter models: unknown keys are refused, defaults are filled in, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def identity(self) -> Any:
        """What two of them have in common that mean the same."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Entry:
    """One name of the catalog.

    summary: one line for people. params: the model of its parameters. place: `module:function` of what does it, which
    only workers and experiments import; `engine.places` says what the function of each kind takes and returns.
    example: a tiny configuration, with which tests and experiments run the name in about a second; of an architecture
    one that takes images of 8x8 pixels, grey or in colour.
    """

    summary: str
    params: type[Params]
    place: str
    example: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""  # in tables of experiments; the name where there is none
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further rows there: label to parameters
    needs_remain: bool = False
    needs_holdout: bool = False  # learns from never-trained samples, which are then no controls of an audit
    needs_adversarial: bool = False
    needs_given: bool = False  # an attack that takes another version's adversarial set instead of searching
    held: bool = True  # a source whose samples this service has
    module: str = ""  # that a worker must have besides Lethe's own dependencies
    plugin: bool = False  # a package of the operator's adds it
    exact: bool = False  # unlearns by construction: its provenance is the proof, the audit only reports
