"""What an entry of the catalog is, and the base of all parameters."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import (
    BaseModel,
    ConfigDict,
)

CLASS_NAME = r"^[^\x00-\x1f\x7f/\\]+$"


OPTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,39}$"


OPTION_TEXT = r"^[^\x00-\x1f\x7f]*$"


TORCHVISION_MODEL = r"^[a-z0-9_]{2,60}$"


TORCHVISION_SET = r"^[A-Za-z0-9]{2,40}$"


WORDS = {
    CLASS_NAME: "a text without control characters, `/` and `\\`",
    OPTION_NAME: "1 to 40 of `A-Z`, `a-z`, `0-9` and `_`, no digit first",
    OPTION_TEXT: "a text without control characters",
    TORCHVISION_MODEL: "2 to 60 of `a-z`, `0-9` and `_`",
    TORCHVISION_SET: "2 to 40 of `A-Z`, `a-z` and `0-9`",
}
"""Each of these regular expressions in words, for people."""


class Params(BaseModel):
    """Base of all parameter models: unknown keys are refused, defaults are filled in, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Entry:
    """One name of the catalog."""

    summary: str
    params: type[Params]
    needs_remain: bool = False
    needs_adversarial: bool = False
    needs_given: bool = False  # an attack that takes another version's adversarial set instead of searching
    held: bool = True  # a source whose samples this service has
    exact: bool = False  # forgets by construction: its provenance is the proof, the audit only reports
