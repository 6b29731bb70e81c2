import pytest
import torch

from app.catalog import ResNet18Params, SmallCnnParams
from worker.architectures import resnet18, small_cnn


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (3, 32, 7), (3, 28, 2)])
def test_every_architecture_maps_images_to_logits(channels, size, classes):
    images = torch.rand(2, channels, size, size)
    for model in (
        small_cnn.build(SmallCnnParams(width=4), channels, classes),
        resnet18.build(ResNet18Params(width=4), channels, classes),
    ):
        assert model(images).shape == (2, classes)


def test_resnet18_has_the_published_number_of_parameters():
    model = resnet18.build(ResNet18Params(), 3, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_halving_touches_the_three_projected_blocks_only():
    halved = resnet18.build(ResNet18Params(width=4), 3, 10)
    plain = resnet18.build(ResNet18Params(width=4, halve_projected=False), 3, 10)
    scales = [[m.scale for m in model if isinstance(m, resnet18.Block)] for model in (halved, plain)]
    assert scales == [[1, 1, 0.5, 1, 0.5, 1, 0.5, 1], [1] * 8]
    plain.load_state_dict(halved.state_dict())
    images = torch.rand(2, 3, 16, 16)
    block = [m for m in halved.eval() if isinstance(m, resnet18.Block)][2]
    other = [m for m in plain.eval() if isinstance(m, resnet18.Block)][2]
    inputs = torch.rand(2, 4, 8, 8)
    assert torch.allclose(2 * block(inputs), other(inputs))
    assert not torch.allclose(halved(images), plain(images))
