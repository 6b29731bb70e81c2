"""Seeds, determinism and the record of the software that ran."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import torch
from torch import nn

from engine import layout


def derive(seed: int, *names: str | int) -> int:
    """Return a stable 63-bit seed for the purpose that `names` spell, independent of other purposes."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device`."""
    return torch.Generator(device=device).manual_seed(seed)


def seeded_model(build: Callable[[], nn.Module], seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """Build a model whose initial weights depend on `seed` alone, and put it on `device`, channels-last.

    Weights are drawn on the CPU, so that every device starts from the same; torch's global generator is
    left as it was.
    """
    with drawing(seed):
        model = build()
    return layout.placed(model, device)


@contextmanager
def drawing(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators, of the CPU and of `device`, inside; afterwards they are as before."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    """Make torch choose deterministic kernels inside; on the CPU equal seeds then give equal bits.

    Equal bits also need an equal number of threads: sums are split among them.
    """
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not `use_deterministic_algorithms`, which loads torch's compiler to tell it too: two seconds of every process.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]


def environment(device: torch.device | str = "cpu", precision: str = "float32") -> dict[str, str]:
    """Return versions of code and libraries, the number of threads, and `arithmetic`."""
    return {
        "lethe": metadata.version("lethe-unlearning"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": str(torch.get_num_threads()),
        **arithmetic(device, precision),
    }


def arithmetic(device: torch.device | str, precision: str) -> dict[str, str]:
    """Return the device's name and how it computes.

    precision: of training and fine-tuning. What is measured (audits, an attack's verification) is float32, with
    TF32 switched off, in every precision.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return {"device": f"{device.type} ({platform.machine()})", "precision": precision, "tf32": "none"}
    switches = {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}
    return {
        "device": f"{device.type} ({torch.cuda.get_device_name(device)})",
        "precision": precision,
        "tf32": ", ".join(name for name, on in switches.items() if on) or "none",
    }
