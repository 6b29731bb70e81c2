"""Fingerprints know weights in another file, and tell apart weights that differ a little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from app.formats import fingerprints

Tensors = dict[str, Tensor]


@pytest.fixture
def weights() -> Tensors:
    """Of all sizes, also such as float16 has no values for."""
    draw = torch.Generator().manual_seed(0)
    plain = {
        "a": torch.randn(40, 30, generator=draw),
        "b": torch.randn(40, 30, generator=draw) * 1e-7,
        "c": torch.rand(1100, 1000, generator=draw),
        "d": torch.zeros(30),
    }
    return plain | {"n": torch.tensor(7)}


def of(folder: Path, tensors: Tensors, without: tuple[str, ...] = ()) -> bytes:
    save_file(tensors, folder / "file")
    return fingerprints.of_file(folder / "file", without)


def cast(tensors: Tensors, dtype: torch.dtype, *names: str) -> Tensors:
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() and (not names or name in names) else tensor
        for name, tensor in tensors.items()
    }


def test_the_same_weights_in_another_file_are_alike(weights: Tensors, tmp_path: Path) -> None:
    one = of(tmp_path, weights)
    half, brain = cast(weights, torch.float16), cast(weights, torch.bfloat16)
    others = {
        "float16": half,
        "bfloat16": brain,
        "float16 and back": cast(half, torch.float32),
        "bfloat16 and back": cast(brain, torch.float32),
        "bfloat16 of float16": cast(half, torch.bfloat16),
        "a part of it": cast(weights, torch.float16, "a"),
        "other names, no counter": {f"module.{name}": weights[name] for name in "dcba"},
    }
    for name, tensors in others.items():
        other = of(tmp_path, tensors)
        assert fingerprints.alike(one, other), name
        assert fingerprints.alike(other, one), name
    assert fingerprints.alike(one, of(tmp_path, {**weights, "ema.a": weights["a"] + 1}, ("ema.a",)))


def test_other_weights_are_not(weights: Tensors, tmp_path: Path) -> None:
    one = of(tmp_path, weights)
    others: dict[str, Tensors] = {
        "one tensor": {**weights, "a": weights["a"] * 1.001},
        "a head of more classes": {**weights, "d": torch.zeros(31)},
        "a tensor more": {**weights, "e": torch.zeros(30)},
        "transposed": {**weights, "a": weights["a"].T.contiguous()},
        "as long, once more": {**weights, "b": weights["a"].clone()},
    }
    for name, tensors in others.items():
        other = of(tmp_path, tensors)
        assert not fingerprints.alike(one, other), name
        assert not fingerprints.alike(other, one), name
    assert not fingerprints.alike(b"", b"")
