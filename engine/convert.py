"""`lethe convert`: a PyTorch state dict to safetensors, on the client's own machine, never in the service."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def convert(source: Path, target: Path) -> str:
    """Write the tensors of `source`, a file of `torch.save`, to `target`; returns the new file's sha256 digest.

    Only tensors are unpickled (`weights_only`). That is no safety against a hostile file: convert what you trust.

    Raises:
        ValueError: the file holds anything else than a flat dictionary of tensors.
    """
    loaded = torch.load(source, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ValueError("the file does not hold a state dict: a flat dictionary of tensors")
    save_file({name.removeprefix("module."): tensor.contiguous() for name, tensor in state.items()}, target)
    with target.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


if __name__ == "__main__":
    try:
        print(convert(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"lethe convert: {error}")
    except Exception as error:  # the unpickler's own refusals
        sys.exit(f"lethe convert: the file cannot be read as a PyTorch checkpoint: {type(error).__name__}")
