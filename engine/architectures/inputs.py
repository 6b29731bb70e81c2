"""An input contract's part inside a network: channels, normalisation before it, the order of classes after it.

Hooks on the network's own module, so that its tensors keep the names of the library that it comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.formats.input_contract import InputContract


def attach(network: nn.Module, contract: InputContract, channels: int, order: list[int] | None = None) -> nn.Module:
    """Let `network` take images (n, C, H, W) in [0, 1] and answer in the dataset's order of classes.

    channels: C of the images. order: by label the network's output (`InputContract.order`); None: its own order.

    Raises:
        ContractError: the network cannot be given such images.
    """
    wanted = contract.channels_of(channels)
    if wanted != channels:
        network.register_forward_pre_hook(_Repeat(wanted))
    if contract.channel_order == "bgr":
        network.register_forward_pre_hook(_turn_round)
    if contract.mean is not None or contract.std is not None:
        _constant(network, "input_mean", contract.mean or (0.0,))
        _constant(network, "input_std", contract.std or (1.0,))
        network.register_forward_pre_hook(_normalise)
    if order is not None:
        network.register_buffer("output_order", torch.tensor(order), persistent=False)
        network.register_forward_hook(_reorder)
    return network


def _constant(network: nn.Module, name: str, values: tuple[float, ...]) -> None:
    # On the CPU also where the network is built without memory: what it holds is known.
    network.register_buffer(name, torch.tensor(values, device="cpu").view(1, -1, 1, 1), persistent=False)


def _normalise(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    mean, std = network.get_buffer("input_mean"), network.get_buffer("input_std")
    return (inputs[0] - mean) / std


def _turn_round(_network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0].flip(1)


class _Repeat:
    """Grey images for a network that takes colour."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0].expand(-1, self.channels, -1, -1)


def _reorder(network: nn.Module, _inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
    return outputs.index_select(1, network.get_buffer("output_order"))
