import warnings

import pytest
import torch
from torch import nn

from app import catalog
from app.catalog import AirbenchParams, ResNet18Params, TorchvisionParams, Vgg19Params, VitParams
from app.formats.checkpoint_header import CheckpointError
from engine import checkpoints, places, seeding
from engine.architectures import airbench, resnet18, torchvision_model, vgg19_bn, vit
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError
from tests.catalog_cases import named, own


def built(name, channels, classes, size):
    """The catalog's example of an architecture."""
    params = catalog.parse("architectures", name, catalog.ARCHITECTURES[name].example)
    return places.architecture(name)(params, channels, classes, size)


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, (8, 8), 10), (3, (32, 32), 7), (3, (28, 36), 2)])
@pytest.mark.parametrize("name", named("architectures"))
def test_every_architecture_maps_images_to_logits_and_learns_in_both_modes(name, channels, size, classes):
    images = torch.rand(2, channels, *size)
    model = built(name, channels, classes, size)
    for training in (True, False):
        outputs = model.train(training)(images)
        assert outputs.shape == (2, classes)
        outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# -- ResNet-18 -------------------------------------------------------------------------------------


def test_resnet18_has_the_published_number_of_parameters():
    model = resnet18.build(ResNet18Params(), 3, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_halving_touches_the_three_projected_blocks_only():
    halved = resnet18.build(ResNet18Params(width=4), 3, 10)
    plain = resnet18.build(ResNet18Params(width=4, halve_projected=False), 3, 10)
    scales = [[m.scale for m in model if isinstance(m, resnet18.ResidualBlock)] for model in (halved, plain)]
    assert scales == [[1, 1, 0.5, 1, 0.5, 1, 0.5, 1], [1] * 8]
    plain.load_state_dict(halved.state_dict())
    images = torch.rand(2, 3, 16, 16)
    block = [m for m in halved.eval() if isinstance(m, resnet18.ResidualBlock)][2]
    other = [m for m in plain.eval() if isinstance(m, resnet18.ResidualBlock)][2]
    inputs = torch.rand(2, 4, 8, 8)
    assert torch.allclose(2 * block(inputs), other(inputs))
    assert not torch.allclose(halved(images), plain(images))


def test_a_projection_is_a_strided_convolution_for_however_few_channels():
    """oneDNN's own strided one corrupts memory for few channels, so both are compared in another layout."""
    inputs = torch.randn(3, 5, 9, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = resnet18.Projection(5, 7, 2).to(memory_format=torch.channels_last)
    asked = nn.Conv2d(5, 7, 1, stride=2, bias=False)
    asked.load_state_dict(found.state_dict())
    for _ in range(20):  # memory that is corrupted ends the process at the next free
        got = found(inputs.contiguous(memory_format=torch.channels_last))
        wanted = asked(inputs)
        torch.testing.assert_close(got, wanted)
        ours = torch.autograd.grad(got.square().sum(), [inputs, found.weight])
        theirs = torch.autograd.grad(wanted.square().sum(), [inputs, asked.weight])
        torch.testing.assert_close(ours, theirs)
    for name in set(own("architectures")) - {"torchvision"}:
        layers = [m for m in built(name, 3, 10, (32, 32)).modules() if isinstance(m, nn.Conv2d)]
        assert not [layer for layer in layers if layer.kernel_size == (1, 1) and layer.stride != (1, 1)]


# -- airbench --------------------------------------------------------------------------------------


def test_airbench_has_the_originals_shape():
    """Two million weights, counted by hand; three pools leave 3 of 31 pixels a side."""
    model = airbench.build(AirbenchParams(), 3, 10)
    weights = 24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256
    assert sum(parameter.numel() for parameter in model.parameters()) == 312 + 9 * weights + 2304 + 2570
    assert sum(isinstance(module, nn.MaxPool2d) for module in model) == 3
    assert model[:-3](torch.rand(1, 3, 32, 32)).shape == (1, 256, 3, 3)
    assert sum(isinstance(module, nn.MaxPool2d) for module in airbench.build(AirbenchParams(), 3, 10, (8, 8))) == 2


# -- VGG -------------------------------------------------------------------------------------------


def test_vgg19_has_sixteen_convolutions_five_pools_and_the_published_features():
    model = vgg19_bn.build(Vgg19Params(), 3, 200, (64, 64))
    assert sum(isinstance(module, nn.Conv2d) for module in model) == 16
    assert sum(isinstance(module, nn.MaxPool2d) for module in model) == 5
    assert model[-1].in_features == 2 * 2 * 512
    with torch.device("meta"):
        published = import_torchvision().models.vgg19_bn().features
    ours = [p.shape for m in model if isinstance(m, nn.Conv2d | nn.BatchNorm2d) for p in m.parameters()]
    with_biases = [m for m in published if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    theirs = [
        p.shape
        for m in with_biases
        for name, p in m.named_parameters()
        if isinstance(m, nn.BatchNorm2d) or name == "weight"
    ]
    assert ours == theirs


@pytest.mark.parametrize(
    ("size", "pools", "features"), [((32, 32), 5, 32), ((8, 8), 3, 32), ((16, 40), 4, 64), ((1, 1), 0, 32)]
)
def test_vgg_leaves_pools_out_where_nothing_is_left_to_pool(size, pools, features):
    model = vgg19_bn.build(Vgg19Params(width=4), 3, 5, size)
    assert sum(isinstance(module, nn.MaxPool2d) for module in model) == pools
    assert model[-1].in_features == features
    assert model.eval()(torch.rand(1, 3, *size)).shape == (1, 5)


# -- the transformer -------------------------------------------------------------------------------


def test_attention_is_that_of_torch():
    ours = vit.Attention(12, 3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.mix.weight,
            "in_proj_bias": ours.mix.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.rand(2, 5, 12)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6)


def test_tokens_are_the_patches_row_by_row():
    tokens = vit.Tokens(1, 2, 4, 6)
    with torch.no_grad():
        tokens.patches.weight.copy_(torch.eye(4).reshape(4, 1, 2, 2))
        tokens.patches.bias.zero_()
        tokens.positions.zero_()
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert tokens(image)[0, 1].tolist() == [2, 3, 8, 9]
    assert tokens(image)[0, 3].tolist() == [12, 13, 18, 19]


def test_patch_depth_and_heads_are_what_they_say():
    model = vit.build(VitParams(patch=8, width=32, depth=3, heads=4), 3, 10, (32, 16))
    assert model[0].positions.shape == (1, 8, 32)
    assert sum(isinstance(module, vit.EncoderBlock) for module in model) == 3
    with pytest.raises(ArchitectureError, match="patches of 4 pixels do not fill images of 30x32"):
        vit.build(VitParams(), 3, 10, (30, 32))
    with pytest.raises(ValueError, match="multiple of heads"):
        VitParams(width=10, heads=3)


def test_dropout_is_off_in_eval_mode():
    model = vit.build(VitParams(width=8, depth=1, heads=2, dropout=0.5), 1, 3, (8, 8))
    images = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


# -- torchvision -----------------------------------------------------------------------------------


def torchvision_build(name, channels=3, size=(224, 224), classes=7):
    return torchvision_model.build(TorchvisionParams.model_construct(name=name), channels, classes, size)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16", "densenet121", "shufflenet_v2_x1_0"],
)
def test_torchvision_classifiers_are_built_by_name_and_take_torchvisions_own_weights(name, tmp_path):
    models = import_torchvision().models
    theirs = models.get_model(name, weights=None, num_classes=7).eval()
    checkpoints.save(theirs, tmp_path / "checkpoint", {})
    ours = checkpoints.load(tmp_path / "checkpoint", torchvision_build(name)).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    other = models.get_model(name, weights=None, num_classes=8)
    with pytest.raises(CheckpointError, match="shape"):
        checkpoints.check(tmp_path / "checkpoint", checkpoints.expected_tensors(other))


@pytest.mark.parametrize("name", ["googlenet", "swin_t", "resnet18", "squeezenet1_1", "convnext_tiny"])
def test_others_answer_with_logits_while_training_too(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = torchvision_build(name, size=(64, 64))
    assert model.train()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_grey_images_are_repeated_and_tensors_keep_their_names():
    grey, colour = torchvision_build("resnet18", 1, (32, 32)), torchvision_build("resnet18", 3, (32, 32))
    assert checkpoints.expected_tensors(grey) == checkpoints.expected_tensors(colour)
    colour.load_state_dict(grey.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(grey.eval()(images), colour.eval()(images.expand(-1, 3, -1, -1)))


def test_transformers_are_built_for_the_size_of_the_images():
    assert torchvision_build("vit_b_32", size=(64, 64))(torch.rand(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "channels", "size", "reason"),
    [
        ("resnet1000", 3, (32, 32), "no classifier resnet1000"),
        ("get_model", 3, (32, 32), "no classifier"),
        ("fcn_resnet50", 3, (32, 32), "no classifier"),
        ("resnet18", 4, (32, 32), "the images have 4"),
        ("alexnet", 3, (32, 32), "alexnet cannot take images of 32x32 pixels: "),
        ("densenet121", 3, (8, 8), "densenet121 cannot take images of 8x8 pixels: "),
        ("vit_b_16", 3, (30, 30), "vit_b_16 cannot take images of 30x30 pixels: "),
        ("vit_b_16", 3, (32, 64), "square"),
        ("maxvit_t", 3, (32, 32), "maxvit_t cannot take images of 32x32 pixels: "),
        ("inception_v3", 3, (32, 32), "inception_v3 cannot take images of 32x32 pixels: "),
    ],
)
def test_what_cannot_take_the_images_is_refused_with_the_reason(name, channels, size, reason):
    with pytest.raises(ArchitectureError, match=reason) as caught:
        torchvision_build(name, channels, size)
    assert not str(caught.value).rstrip().endswith(":")


def test_weights_depend_on_the_seed_alone():
    first, second, other = (
        seeding.seeded_model(lambda: torchvision_build("mobilenet_v3_small", size=(32, 32)), seed) for seed in (1, 1, 2)
    )
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
