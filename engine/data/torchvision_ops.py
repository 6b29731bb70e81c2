"""Importing torchvision where its compiled operators do not fit the installed torch.

The default package of torchvision is built for CUDA. Beside a CPU build of torch its operators do not
load, and the import then fails on the first of them that it wants to describe. Datasets and models need
none of them, so their names are declared, without an implementation, before the import.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def _declared() -> torch.library.Library:
    """Declare the names, once; they live as long as the object returned."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


@cache
def import_torchvision() -> ModuleType:
    """Return the module `torchvision`, with `datasets` imported."""
    if not _compiled_operators_load():
        _declared()
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")


def _compiled_operators_load() -> bool:
    found = importlib.util.find_spec("torchvision")
    folders = found.submodule_search_locations if found else None
    for binary in (path for folder in folders or () for path in Path(folder).glob("_C.*")):
        try:
            torch.ops.load_library(str(binary))  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):
            return False
        return True
    return False
