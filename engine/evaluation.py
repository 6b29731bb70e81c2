"""Logits and accuracy of a classifier, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.data.samples import gather, run, to_float
from engine.memory import within_memory

MOST_VALUES = 2**24
"""Of a batch of images: 64 MiB as float32. Of images of 32 pixels it holds more than the largest batch."""
CPU_BATCH = 128
"""On a CPU, where what a layer makes of a batch is to stay in its caches: 1,024 take 2 to 4 times as long."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside, and each back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for the weights inside; both as before afterwards."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with eval_mode(model):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 means float32 inside: no TF32 on CUDA. No effect elsewhere."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32, convolution.allow_tf32 = False, False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, positions: Tensor | None = None, batch: int = 1024) -> Tensor:
    """Return the logits (n, classes), in full float32, of rows `positions` of `images`, or of all of them.

    images: (N, C, H, W), uint8 or float32 in [0, 1]; they may lie elsewhere than the model, which is where the
    logits are. batch: how many at once at most; fewer on a CPU, if they are large, or if the memory does not suffice.

    Raises:
        DeviceMemoryError: a single image does not fit.
    """
    n = len(images) if positions is None else len(positions)
    device = next((tensor.device for tensor in model.parameters()), images.device)
    largest = min(batch, CPU_BATCH) if device.type == "cpu" else batch

    def in_batches(size: int) -> Tensor:
        parts = []
        for start in range(0, n, size):
            rows = slice(start, start + size)
            chosen = run(images, rows) if positions is None else gather(images, positions[rows])
            parts.append(model(to_float(chosen.to(device))).float())
        return torch.cat(parts)

    with eval_mode(model), full_precision():
        return within_memory(in_batches, min(largest, max(1, MOST_VALUES // max(1, images.shape[1:].numel()))))[0]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `logits` (n, classes) whose largest entry is at `labels` (n,)."""
    return (logits.argmax(1) == labels).double().mean().item()
