"""Channels, normalisation and the order of classes inside a network, without a name of its own in checkpoints."""

from __future__ import annotations

import copy

import torch
from torch import nn

from app.formats.input_contract import InputContract
from engine.architectures import inputs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_normalisation_is_inside_and_checkpoints_do_not_change():
    bare, images = network().eval(), torch.rand(2, 3, 8, 8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    made = inputs.attach(copy.deepcopy(bare), InputContract(mean=mean, std=std), 3)
    assert made.state_dict().keys() == bare.state_dict().keys()
    normalised = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.equal(made(images), bare(normalised))
    twin = copy.deepcopy(made)
    assert torch.equal(twin(images), made(images))
    assert twin.to(torch.float64).get_buffer("input_mean").dtype == torch.float64, "it moves with the module"


def test_grey_images_are_repeated_before_they_are_normalised():
    bare, images = network().eval(), torch.rand(2, 1, 8, 8)
    made = inputs.attach(copy.deepcopy(bare), InputContract(mean=(0.1, 0.2, 0.3)), 1)
    assert torch.equal(
        made(images), bare(images.expand(-1, 3, -1, -1) - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    )


def test_channels_are_turned_round_before_they_are_normalised():
    bare, images = network().eval(), torch.rand(2, 3, 8, 8)
    made = inputs.attach(copy.deepcopy(bare), InputContract(channel_order="bgr", mean=(0.1, 0.2, 0.3)), 3)
    blue_first = images[:, [2, 1, 0]] - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    assert torch.equal(made(images), bare(blue_first))


def test_outputs_are_put_in_the_order_of_labels():
    bare, images = network().eval(), torch.rand(2, 3, 8, 8)
    made = inputs.attach(copy.deepcopy(bare), InputContract(), 3, order=[2, 0, 1])
    assert torch.equal(made(images), bare(images)[:, [2, 0, 1]])
    assert made.state_dict().keys() == bare.state_dict().keys()


def test_without_a_contract_the_network_is_as_it_was():
    bare = network()
    made = inputs.attach(bare, InputContract(), 3)
    assert made is bare
    assert not made._forward_pre_hooks
    assert not list(made.buffers(recurse=False))


def test_what_is_known_of_a_network_without_memory():
    with torch.device("meta"):
        made = inputs.attach(network(), InputContract(mean=(0.5,)), 3)
    assert made.get_buffer("input_mean").device.type == "cpu"
