"""`lethe convert`: what a trainer left to one safetensors file, on the client's own machine, never in the service."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.formats.checkpoint_names import some

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "averaged_model")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Members of what trainers save, averaged weights by themselves."""


def convert(source: Path, target: Path, *, averaged: bool = False) -> str:
    """Write the tensors of `source` to `target`; returns the new file's sha256 digest.

    source: a file of `torch.save`, a safetensors file, or the index of a sharded one (`*.index.json`). averaged: of a
    file with both, the averaged weights. Only tensors are unpickled (`weights_only`). That is no safety against a
    hostile file: convert what you trust.

    Raises:
        ValueError: the file holds no flat dictionary of tensors, or two of its names would become one.
    """
    state = bare_names(read(source, averaged=averaged))
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, target)
    with target.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def read(source: Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """The tensors of a file of any of the forms, under its own names."""
    if source.name.endswith(".index.json"):
        return _shards(source)
    if source.suffix == ".safetensors":
        return load_file(source)
    return unwrapped(torch.load(source, map_location="cpu", weights_only=True), averaged=averaged)


def _shards(index: Path) -> dict[str, Tensor]:
    where = json.loads(index.read_text()).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ValueError(f"{index.name} is no index of a sharded file: it has no `weight_map`")
    found: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise ValueError(f"{index.name} names a file outside its folder")
        shard = load_file(index.parent / name)
        if twice := sorted(found.keys() & shard.keys()):
            raise ValueError(f"two files of {index.name} hold {some(twice)}")
        found |= shard
    if lacking := sorted(where.keys() - found.keys()):
        raise ValueError(f"the files of {index.name} lack {some(lacking)}")
    return found


def unwrapped(loaded: Any, *, averaged: bool = False) -> dict[str, Tensor]:
    """The state dict in what a trainer saved.

    Raises:
        ValueError: there is none, or no averaged one where that is asked for.
    """
    if averaged:
        inside = next((loaded[name] for name in AVERAGED if isinstance(loaded, Mapping) and name in loaded), None)
        if inside is None:
            raise ValueError(f"the file has no averaged weights: none of {', '.join(AVERAGED)}")
        return unwrapped(inside)
    for _ in range(3):  # a checkpoint in a checkpoint
        if not isinstance(loaded, Mapping) or all(isinstance(value, Tensor) for value in loaded.values()):
            break
        inside = next((loaded[name] for name in (*WRAPPERS, *AVERAGED) if isinstance(loaded.get(name), Mapping)), None)
        if inside is None:
            break
        loaded = inside
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(
            "the file does not hold a state dict: a flat dictionary of tensors, by itself or as one of the members "
            f"{', '.join(WRAPPERS)}"
        )
    return dict(loaded)


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without what DataParallel and compiling put into its names; the service knows other prefixes.

    Raises:
        ValueError: two names would become one.
    """
    found: dict[str, str] = {}
    for name in state:
        own = name.replace("_orig_mod.", "").removeprefix("module.")
        if own in found:
            raise ValueError(f"the tensors {found[own]} and {name} would both be {own}; nothing was written")
        found[own] = name
    return {own: state[name] for own, name in found.items()}


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have letters that the terminal has not
    try:
        print(convert(Path(sys.argv[1]), Path(sys.argv[2]), averaged="--averaged" in sys.argv[3:]))  # noqa: T201
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"lethe convert: {error}")
    except Exception as error:  # the unpickler's own refusals
        sys.exit(f"lethe convert: the file cannot be read as a PyTorch checkpoint: {type(error).__name__}")
