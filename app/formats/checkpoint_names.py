"""Which tensor of a file is which of a network: by name, with the prefixes that trainers add, or a difference that a
person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from app.formats.checkpoint_header import CheckpointError, TensorSpec

AVERAGED_PREFIXES = ("ema_model.", "model_ema.", "ema.", "averaged_model.", "swa_model.")
"""What averaged weights have before their names."""
PREFIXES = ("module.", "model.", "net.", "network.", "online_model.", *AVERAGED_PREFIXES)
"""What DataParallel, Lightning and other trainers and averaged weights put before a name."""
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile` and the wrappers of FSDP and of activation checkpoints put before a name or into it."""
COUNTERS = "num_batches_tracked"
DROPPED = ("n_averaged", "initted", "step")
"""Counters of averaged weights (`torch.optim.swa_utils.AveragedModel`, ema-pytorch), which no network has."""
CAST = {"F32": ("F16", "BF16")}
"""Dtypes of a file that stand for one of a network, without loss."""
POSITIONS = (
    "positions",
    "pos_embed",
    "position_embedding",
    "pos_embedding",
    "relative_position",
    "relative_coords",
    "attn_mask",
)
MOST_NAMED = 5

Wanted = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype (of a header) and shape of each tensor that a network has."""


@dataclass(frozen=True)
class Match:
    """`names`: the network's tensors and those of the file that hold them. What is not among them are counters of
    batches, which start at 0."""

    names: Mapping[str, str]


def match(
    tensors: Mapping[str, TensorSpec],
    wanted: Wanted,
    aliases: Mapping[str, str] | None = None,
    ignored: Collection[str] = (),
) -> Match:
    """Find the tensors of a network in a file.

    aliases: other names of wanted tensors. ignored: names, or their beginnings up to a dot, that the file may have
    besides.

    Raises:
        CheckpointError: what is missing, unexpected or of another shape or dtype, and the nearest names.
    """
    known = {alias: name for alias, name in (aliases or {}).items() if name in wanted} | {name: name for name in wanted}
    found: dict[str, str] = {}
    extra: list[str] = []
    for name in tensors:
        own = known.get(name) or next((known[bare] for bare in _bare(name) if bare in known), None)
        if own is None:
            if not any(bare in DROPPED or _ignored(bare, ignored) for bare in (name, *_bare(name))):
                extra.append(name)
        elif own in found:
            raise CheckpointError(
                f"the tensors {found[own]} and {name} would both be {own}: two models are in one file; send one of them"
            )
        else:
            found[own] = name
    missing = [name for name in wanted if name not in found and not name.endswith(COUNTERS)]
    shapes = [
        (name, tensors[found[name]].shape, shape)
        for name, (_, shape) in wanted.items()
        if name in found and tensors[found[name]].shape != shape
    ]
    if missing or extra or shapes:
        raise CheckpointError("; ".join(_difference(missing, extra, shapes)))
    for name, (dtype, _) in wanted.items():
        there = tensors[found[name]].dtype if name in found else dtype
        if there != dtype and there not in CAST.get(dtype, ()):
            raise CheckpointError(f"tensor {name}: its dtype is {there}, not {dtype}")
    return Match(found)


def _ignored(name: str, ignored: Collection[str]) -> bool:
    return name in ignored or any(each.endswith(".") and name.startswith(each) for each in ignored)


def unwrapped(name: str) -> str:
    """`name` without what wrappers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _bare(name: str) -> Iterator[str]:
    """`name` without what wrappers put into it, and without one prefix after the other."""
    if (bare := unwrapped(name)) != name:
        name = bare
        yield name
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
        yield name


def _difference(
    missing: list[str], extra: list[str], shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> Iterator[str]:
    if missing:
        yield f"the architecture's tensors are missing: {some(missing)}"
    if extra:
        near = [(name, difflib.get_close_matches(name, missing[:200], 1)) for name in extra[:MOST_NAMED]]
        like = ", ".join(f"{name} is like {found[0]}" for name, found in near if found)
        yield f"the architecture has no such tensors: {some(extra)}" + (f" ({like})" if like else "")
        if not missing and not shapes:
            yield "leave them out, or take the part of the file that is the network: `lethe convert --member`"
    if shapes:
        named = [f"tensor {name}: its shape is {list(there)}, not {list(want)}" for name, there, want in shapes]
        yield some(named)
    if shapes and not missing and not extra:
        sized = [shape for shape in shapes if any(part in shape[0] for part in POSITIONS)]
        rest = [shape for shape in shapes if shape not in sized]
        heads = {(there[0], want[0]) for _, there, want in rest if there and want and there[1:] == want[1:]}
        if len(heads) == 1 and all(there and there[1:] == want[1:] for _, there, want in rest):
            ((outputs, classes),) = heads
            yield f"the file is of a head with {outputs} outputs, and the dataset has {classes} classes"
        if sized and len(heads) == min(len(rest), 1):
            yield "it was trained on images of another size: say so in the model's `input.geometry`"


def some(names: list[str]) -> str:
    """The first of `names`, and how many more."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
