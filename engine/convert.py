"""`lethe convert`: what a trainer left to one safetensors file, on the client's own machine, never in the service."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.formats.checkpoint_names import AVERAGED_PREFIXES, DROPPED, some, unwrapped

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
"""Members that trainers save weights under, the likeliest first."""
AVERAGED = re.compile(r"(^|_)(ema|swa|averaged|avg|shadow)(_|$)", re.IGNORECASE)
"""In the name of a member with averaged weights."""
OTHERS = re.compile(r"optim|sched|scaler|rng|random|callback|loops", re.IGNORECASE)
"""In the name of a member whose tensors are no weights."""
MOST_DEEP = 4


class _Ignored:
    """In the place of every object of a file that is no tensor: it takes what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.module = isinstance(state, Mapping) and "_modules" in state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


State = dict[str, Tensor]
Members = tuple[str, ...]
"""Names of members, from the outermost."""


def convert(source: Path, target: Path, *, averaged: bool = False, member: str | None = None) -> str:
    """Write the tensors of `source` to `target`; returns the new file's sha256 digest.

    source: a file of `torch.save`, a safetensors file, or the index of a sharded one (`*.index.json`). averaged: of a
    file with both, the averaged weights. member: of a file with several networks, the member or the first part of
    the names that holds the wanted one. Only tensors are unpickled. That is no safety against a hostile file: convert
    what you trust.

    Raises:
        ValueError: the file holds no state dict or several, or two of its names would become one.
    """
    state = bare_names(read(source, averaged=averaged, member=member))
    if odd := [name for name, tensor in state.items() if tensor.is_quantized or tensor.layout != torch.strided]:
        raise ValueError(f"safetensors has no quantized and no sparse tensors: {some(odd)}")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, target)
    with target.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def read(source: Path, *, averaged: bool = False, member: str | None = None) -> State:
    """The tensors of a file of any of the forms, under its own names."""
    if source.name.endswith(".index.json"):
        return _part(_shards(source), averaged=averaged, member=member)
    return chosen(_load(source), averaged=averaged, member=member)


def _load(source: Path) -> Any:
    """What a file holds, with `_Ignored` for all that is no tensor, so that the file's own classes are never needed."""
    if source.suffix == ".safetensors":
        return load_file(source)
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    except Exception:  # a file of before torch 1.6, which names them nowhere
        others = []
    stand_ins: Any = [(_Ignored, name) for name in others]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(source, map_location="cpu", weights_only=True)


def _shards(index: Path) -> State:
    document = json.loads(index.read_text())
    where = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise ValueError(f"{index.name} is no index of a sharded file: it has no `weight_map` of names to files")
    found: State = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise ValueError(f"{index.name} names a file outside its folder")
        if not (index.parent / name).exists():
            raise ValueError(f"{index.name} names {name}, and the folder has no such file")
        shard = _load(index.parent / name)
        if not _is_state(shard):
            raise ValueError(f"{name} holds no state dict")
        if twice := sorted(found.keys() & shard.keys()):
            raise ValueError(f"two files of {index.name} hold {some(twice)}")
        found |= shard
    if lacking := sorted(where.keys() - found.keys()):
        raise ValueError(f"the files of {index.name} lack {some(lacking)}")
    if more := sorted(found.keys() - where.keys()):
        raise ValueError(f"{index.name} does not name what its files hold: {some(more)}")
    return found


# -- which of them ---------------------------------------------------------------------------------


def chosen(loaded: Any, *, averaged: bool = False, member: str | None = None) -> State:
    """The state dict in what a trainer saved.

    Raises:
        ValueError: there is none, or several, or no averaged one where that is asked for.
    """
    found = dict(_states(loaded))
    if not found:
        raise ValueError(
            "the file holds a whole module: save its `state_dict()`"
            if _holds_module(loaded)
            else "the file does not hold a state dict: a flat dictionary of tensors, by itself or as a member such as "
            f"{', '.join(WRAPPERS[:4])}"
        )
    if member is not None and any(_dotted(path) == member for path in found):
        return found[next(path for path in found if _dotted(path) == member)]
    kind = {path: state for path, state in found.items() if averaged == any(map(AVERAGED.search, path))}
    if not kind and averaged:  # they may be beside the others, under names of their own
        return _part(_one(found), averaged=True, member=member)
    return _part(_one(kind or found), averaged=False, member=member)


def _states(loaded: Any, path: Members = ()) -> Iterator[tuple[Members, State]]:
    if _is_state(loaded):
        yield path, {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    elif isinstance(loaded, Mapping) and len(path) < MOST_DEEP:
        for name, value in loaded.items():
            if isinstance(name, str) and not OTHERS.search(name):
                yield from _states(value, (*path, name))


def _is_state(loaded: Any) -> bool:
    """Whether it is a flat dictionary with tensors. Counters and the like may be among them."""
    return (
        isinstance(loaded, Mapping)
        and all(isinstance(name, str) for name in loaded)
        and any(isinstance(value, Tensor) for value in loaded.values())
        and not any(isinstance(value, Mapping | list | tuple) for value in loaded.values())
    )


def _holds_module(loaded: Any) -> bool:
    values = [loaded, *(loaded.values() if isinstance(loaded, Mapping) else ())]
    return any(getattr(value, "module", False) for value in values)


def _one(found: Mapping[Members, State]) -> State:
    if len(found) > 1:
        for wrapper in WRAPPERS:
            known = [state for path, state in found.items() if path and path[0] == wrapper]
            if len(known) == 1:
                return known[0]
        names = some(sorted(map(_dotted, found)))
        raise ValueError(f"the file holds several state dicts: {names}; name one with --member")
    return next(iter(found.values()))


def _part(state: State, *, averaged: bool, member: str | None) -> State:
    """The part of a state dict that is one network: by the first part of the names, or as averaged weights."""
    if member is not None:
        part = _below(state, f"{member}.")
        if not part:
            first = sorted({name.partition(".")[0] for name in state})
            raise ValueError(f"the file has no member {member}; its names begin with {some(first)}")
        return part
    prefix = next((each for each in AVERAGED_PREFIXES if _below(state, each)), None)
    if averaged:
        if prefix is None:
            raise ValueError("the file has no averaged weights")
        return _below(state, prefix)
    if prefix is None:
        return state
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(prefix) and name not in DROPPED}
    own = _below(state, prefix).keys()
    firsts = {"", *(f"{name.partition('.')[0]}." for name in rest)}
    twins = any(own <= _below(rest, first).keys() for first in firsts)
    return rest if twins else state  # else it is a part of the network, which has that name


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _dotted(path: Members) -> str:
    return ".".join(path)


def bare_names(state: Mapping[str, Tensor]) -> State:
    """`state` without what DataParallel and compiling put into its names; the service knows other prefixes.

    Raises:
        ValueError: two names would become one.
    """
    found: dict[str, str] = {}
    for name in state:
        own = unwrapped(name).removeprefix("module.")
        if own in found:
            raise ValueError(f"the tensors {found[own]} and {name} would both be {own}; nothing was written")
        found[own] = name
    return {own: state[name] for own, name in found.items()}


def main(arguments: list[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have letters that the terminal has not
    source, target, *options = arguments
    member = options[options.index("--member") + 1] if "--member" in options else None
    try:
        print(convert(Path(source), Path(target), averaged="--averaged" in options, member=member))  # noqa: T201
    except (ValueError, OSError) as error:
        sys.exit(f"lethe convert: {error}")
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, KeyError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        sys.exit(f"lethe convert: the file cannot be read as a checkpoint: {type(error).__name__}: {first}")


if __name__ == "__main__":
    main(sys.argv[1:])
