"""Classifiers of torchvision, timm and Hugging Face as their owners have them: the library's own logits and files."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app import catalog
from app.catalog import HuggingFaceParams, TimmParams, TorchvisionParams, names
from app.formats.input_contract import InputContract
from engine import checkpoints, places, seeding
from engine.architectures import hugging_face, inputs, timm_model, torchvision_model
from engine.data.torchvision_ops import import_torchvision
from engine.errors import ArchitectureError

CONTRACT = InputContract(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TIMM = (
    "resnet18", "resnet26d", "resnext26ts", "seresnet18", "vgg11_bn", "densenet121", "efficientnet_b0",
    "mobilenetv3_small_050", "regnetx_002", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "resmlp_12_224", "ghostnet_050",
    "mnasnet_small", "edgenext_xx_small", "repvgg_a0", "levit_128s", "mobilevit_xxs",
)  # fmt: skip
TORCHVISION = (
    "resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5",
    "squeezenet1_1", "regnet_y_400mf", "convnext_tiny", "vit_b_32", "mnasnet0_5",
)  # fmt: skip
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "vit": {**SMALL, "image_size": 32, "patch_size": 8},
    "dinov2": {**SMALL, "image_size": 32, "patch_size": 8},
    "beit": {**SMALL, "image_size": 32, "patch_size": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "image_size": 32},
    "swin": {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    "deit": {**SMALL, "image_size": 32, "patch_size": 8},
    "segformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "decoder_hidden_size": 8},
}
IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained_a_step(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """One step, after which no two architectures' weights are those they began with."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    torch.nn.functional.cross_entropy(model.train()(images), torch.arange(len(images)) % 5).backward()
    optimizer.step()
    return model.eval()


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CONTRACT.mean, CONTRACT.std))
    return (images - mean) / std


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape == (len(ours), 5)
    assert np.allclose(ours.detach(), theirs.detach(), atol=1e-4), (ours - theirs).abs().max()


def size_of(name: str, image: int) -> tuple[int, int]:
    fixed = {"vit_tiny_patch16_224": 64, "mixer_s32_224": 224, "levit_128s": 224, "resmlp_12_224": 224}
    side = fixed.get(name, 224 if "swin" in name or "deit" in name else image)
    return side, side


# -- torchvision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, tmp_path):
    size, images = (64, 64), IMAGES
    ours = seeding.seeded_model(lambda: torchvision_model.build(TorchvisionParams(name=name), 3, 5, size), 1)
    ours = trained_a_step(inputs.attach(ours, CONTRACT, 3), images)
    checkpoints.save(ours, tmp_path / "c", {})
    extra = {"image_size": 64} if name.startswith("vit") else {}
    theirs = import_torchvision().models.get_model(name, weights=None, num_classes=5, **extra)
    state = theirs.state_dict()  # with the versions that some modules want
    state.update(load_file(tmp_path / "c"))
    theirs.load_state_dict(state)
    agree(ours(images), theirs.eval()(normalised(images)))


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_a_second_head_that_torchvision_has_for_training_is_left_out(name, side, tmp_path):
    theirs = import_torchvision().models.get_model(name, weights=None, num_classes=5, init_weights=False)
    checkpoints.save(theirs, tmp_path / "c", {})
    ours = torchvision_model.build(TorchvisionParams(name=name), 3, 5, (side, side))
    checkpoints.load(tmp_path / "c", ours)
    images = torch.nn.functional.interpolate(IMAGES, (side, side))
    agree(ours.eval()(images), theirs.eval()(images))
    lost = {file for file, own in checkpoints.file_names(tmp_path / "c", ours).items() if own is None}
    assert lost
    assert all("aux" in file.lower() for file in lost)


def test_the_names_are_those_of_the_installed_torchvision():
    models = import_torchvision().models
    assert set(models.list_models(module=models)) == names.TORCHVISION


# -- timm ------------------------------------------------------------------------------------------


@pytest.mark.libraries
@pytest.mark.parametrize("name", TIMM)
def test_timm(name, tmp_path):
    size = size_of(name, 64)
    images = torch.nn.functional.interpolate(IMAGES[:2], size)
    ours = seeding.seeded_model(lambda: timm_model.build(TimmParams(name=name), 3, 5, size), 1)
    ours = trained_a_step(inputs.attach(ours, CONTRACT, 3), images)
    checkpoints.save(ours, tmp_path / "c.safetensors", {})
    timm = importlib.import_module("timm")
    sized = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(
        name, pretrained=False, num_classes=5, checkpoint_path=str(tmp_path / "c.safetensors"), **sized
    )
    agree(ours(images), theirs.eval()(normalised(images)))


@pytest.mark.libraries
def test_the_names_are_those_of_the_installed_timm():
    import_torchvision()
    timm = importlib.import_module("timm")
    assert set(timm.list_models()) == names.timm()
    configs = {name: timm.get_pretrained_cfg(name, allow_unregistered=True) for name in names.timm()}
    assert {name for name, config in configs.items() if config and config.fixed_input_size} == names.timm_sized()


@pytest.mark.libraries
@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("inception_v3", (32, 32), "cannot take images of 32x32"),
    ],
)
def test_what_cannot_take_the_images_is_refused(name, size, reason):
    with pytest.raises(ArchitectureError, match=reason):
        timm_model.build(TimmParams(name=name), 3, 5, size)


# -- Hugging Face ----------------------------------------------------------------------------------


def huggingface(kind: str) -> HuggingFaceParams:
    return HuggingFaceParams(config={"model_type": kind, "num_channels": 3, **HUGGING_FACE[kind]})


@pytest.mark.libraries
@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face(kind, tmp_path):
    images = IMAGES[..., :32, :32].contiguous()
    ours = seeding.seeded_model(lambda: hugging_face.build(huggingface(kind), 3, 5, (32, 32)), 1)
    ours = trained_a_step(inputs.attach(ours, CONTRACT, 3), images)
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(kind, num_labels=5, num_channels=3, **HUGGING_FACE[kind])
    config.architectures = []  # without the member the library fails at a kind with several
    config.save_pretrained(tmp_path)
    checkpoints.save(ours, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    agree(ours(images), theirs(normalised(images)).logits)

    transformers.utils.logging.disable_progress_bar()
    theirs.save_pretrained(tmp_path / "theirs")
    again = hugging_face.build(huggingface(kind), 3, 5, (32, 32))
    checkpoints.load(tmp_path / "theirs" / "model.safetensors", again)
    agree(inputs.attach(again, CONTRACT, 3).eval()(images), ours(images))


@pytest.mark.libraries
def test_the_kinds_are_among_those_of_the_installed_transformers():
    import_torchvision()
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    assert set(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) >= names.HUGGING_FACE


@pytest.mark.libraries
@pytest.mark.parametrize("kind", sorted(names.HUGGING_FACE))
def test_every_kind_takes_pixels_and_answers_with_logits(kind):
    """Of the library's own configuration, by shapes alone."""
    import_torchvision()
    config = importlib.import_module("transformers").AutoConfig.for_model(kind)
    sides = getattr(config, "image_size", None) or 224
    size = (sides, sides) if isinstance(sides, int) else tuple(sides)
    with torch.device("meta"), torch.no_grad():
        network = hugging_face._network(HuggingFaceParams(config={"model_type": kind}), 3, 5)
        assert network(torch.empty(2, 3, *size)).shape == (2, 5)


@pytest.mark.libraries
def test_of_several_classifiers_of_a_kind_it_is_the_one_that_the_file_names(tmp_path):
    """What is fine-tuned from a distilled DeiT has two heads."""
    import_torchvision()
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.for_model("deit", num_labels=5, **HUGGING_FACE["deit"])
    theirs = transformers.DeiTForImageClassificationWithTeacher(config).eval()
    theirs.save_pretrained(tmp_path)
    own = HuggingFaceParams(config=json.loads((tmp_path / "config.json").read_text()))
    ours = checkpoints.load(tmp_path / "model.safetensors", hugging_face.build(own, 3, 5, (32, 32))).eval()
    images = IMAGES[..., :32, :32]
    agree(ours(images), theirs(images).logits)
    assert own.identity() != huggingface("deit").identity()


@pytest.mark.libraries
def test_a_transformer_on_images_of_another_size_is_refused():
    with pytest.raises(ArchitectureError, match=r"cannot take images of 40x40 pixels: .*a model's `input`"):
        hugging_face.build(huggingface("vit"), 3, 5, (40, 40))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "model_type"),
        ({"model_type": "bert"}, "`model_type` is not one of an image classifier"),
        ({"model_type": ["vit"]}, "`model_type` is not one of an image classifier|unhashable"),
        ({"model_type": "vit", "auto_map": {"AutoModel": "a.py"}}, "code of its own"),
        ({"model_type": "vit", "architectures": ["ViTForMaskedImageModeling"]}, "of another task"),
        ({"model_type": "vit", "x": "y" * 2**19}, "more than 256 KiB"),
        ({"model_type": "vit", "backbone_config": {"auto_map": {"AutoModel": "a.py"}}}, "code of its own"),
        ({"model_type": "vit", "quantization_config": {"quant_method": "gptq"}}, "of quantized weights"),
        ({"model_type": "vit", "hidden_size": 10**9}, "has the number 1000000000"),
        ({"model_type": "vit", "num_hidden_layers": 10**4}, "more than 1000 layers"),
        ({"model_type": "resnet", "depths": [3, 10**4]}, "more than 1000 layers"),
        ({"model_type": "vit", "x": float("nan")}, "no JSON"),
    ],
)
def test_a_configuration_that_is_none_of_an_image_classifier(config, reason):
    with pytest.raises(ValueError, match=reason):
        catalog.parse("architectures", "hugging_face", {"config": config})


@pytest.mark.libraries
@pytest.mark.parametrize(
    "stored",
    [
        {"dtype": "bfloat16"},
        {"torch_dtype": "float16"},
        {"return_dict": False},
        {"output_hidden_states": True},
        {"attn_implementation": "flash_attention_2"},
        {"architectures": ["ViTForImageClassification"], "transformers_version": "4.9.0", "_name_or_path": "x/y"},
    ],
)
def test_how_a_network_was_stored_and_run_is_none_of_what_it_is(stored):
    params = HuggingFaceParams(config={"model_type": "vit", "num_channels": 3, **HUGGING_FACE["vit"], **stored})
    model = hugging_face.build(params, 3, 5, (32, 32))
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert model(IMAGES[..., :32, :32]).dtype == torch.float32


@pytest.mark.libraries
@pytest.mark.parametrize("change", [{"hidden_size": "a"}, {"hidden_act": "os.system"}, {"hidden_act": ["gelu"]}])
def test_what_the_library_refuses_is_refused_with_its_reason(change):
    config = {"model_type": "vit", "num_channels": 3, **HUGGING_FACE["vit"], **change}
    with pytest.raises(ArchitectureError, match=r"of this configuration.*(hidden_size|os\.system|hidden_act)"):
        hugging_face.build(HuggingFaceParams(config=config), 3, 5, (32, 32))


@pytest.mark.libraries
def test_the_pooling_of_timm_is_the_one_that_is_named():
    pixels = torch.rand(2, 3, 32, 32)
    models = [
        seeding.seeded_model(lambda pool=pool: timm_model.build(TimmParams(name="test_vit", global_pool=pool), 3, 5), 1)
        for pool in (None, "token", "avg")
    ]
    answers = [model.eval()(pixels) for model in models]
    assert not torch.allclose(answers[1], answers[2])
    with pytest.raises(ArchitectureError, match="cannot take images"):
        timm_model.build(TimmParams(name="test_vit", global_pool="nothing"), 3, 5)


# -- names and workers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("torchvision", {"name": "resnet19"}, "torchvision has no classifier"),
        ("timm", {"name": "resnet18.a1_in1k"}, "without a tag"),
        ("timm", {"name": "hf-hub:somebody/model"}, "timm has no model"),
        ("timm", {"name": "local-dir:/etc"}, "timm has no model"),
    ],
)
def test_names_are_checked_without_the_libraries(name, params, reason):
    with pytest.raises(ValueError, match=reason):
        catalog.parse("architectures", name, params)


@pytest.mark.libraries
@pytest.mark.parametrize("name", ["timm", "hugging_face"])
def test_the_example_answers_grey_images_of_eight_pixels(name):
    params = catalog.parse("architectures", name, catalog.ARCHITECTURES[name].example)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = places.architecture(name)(params, 1, 4, (8, 8))
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    json.dumps(params.model_dump())
