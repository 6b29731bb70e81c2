"""Contracts read from what people have: torchvision's weights, timm's and Hugging Face's configurations."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.formats import preprocessing
from app.formats.input_contract import ContractError, Geometry
from app.formats.torchvision_weights import SIZES
from engine.data import geometry
from engine.data.torchvision_ops import import_torchvision

TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "first_conv": "conv1",
    },
}
CONFIG = {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}}
VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}


def test_every_weights_of_the_installed_torchvision_are_in_the_table_as_it_has_them():
    models = import_torchvision().models
    theirs = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            theirs[str(weights)] = weights.transforms()
    assert theirs.keys() == SIZES.keys()
    for name, own in theirs.items():
        found = preprocessing.from_torchvision(name)
        assert found.geometry == Geometry(
            resize=own.resize_size[0], crop=own.crop_size[0], interpolation=own.interpolation.value
        )
        assert (found.mean, found.std) == (tuple(own.mean), tuple(own.std))
        assert own.antialias


def test_timm():
    found = preprocessing.from_timm(TIMM)
    assert found.geometry == Geometry(resize=235, crop=(224, 224), interpolation="bicubic")
    assert (found.channels, found.class_names) == (3, ("cat", "dog"))
    assert found.mean == (0.485, 0.456, 0.406)
    squash = preprocessing.from_timm({**TIMM["pretrained_cfg"], "crop_mode": "squash", "input_size": [3, 96, 64]})
    assert squash.geometry == Geometry(resize=(101, 67), crop=(96, 64), interpolation="bicubic")


def test_hugging_face():
    found = preprocessing.from_hugging_face(CONFIG, VIT)
    assert found.geometry == Geometry(resize=(224, 224), interpolation="bilinear")
    assert (found.mean, found.std, found.class_names) == ((0.5,) * 3, (0.5,) * 3, ("cat", "dog"))
    old = preprocessing.from_hugging_face({}, {**VIT, "size": 224})
    assert old.geometry == found.geometry
    cropped = {
        **VIT,
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }
    assert preprocessing.from_hugging_face({}, cropped).geometry == Geometry(resize=256, crop=(224, 224))
    convnext = {**VIT, "image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "resample": 3}
    small = preprocessing.from_hugging_face({}, convnext | {"size": {"shortest_edge": 224}})
    assert small.geometry == Geometry(resize=256, crop=(224, 224), interpolation="bicubic")
    large = preprocessing.from_hugging_face({}, convnext | {"size": {"shortest_edge": 384}})
    assert large.geometry == Geometry(resize=(384, 384), interpolation="bicubic")


def test_the_order_of_channels_is_that_of_the_processor_where_the_file_leaves_it_out():
    mobile = {**VIT, "image_processor_type": "MobileViTImageProcessor", "do_center_crop": False}
    found = preprocessing.from_hugging_face({}, mobile)
    assert (found.channel_order, found.mean, found.std) == ("bgr", None, None), "and it never normalises"
    assert preprocessing.from_hugging_face({}, {**mobile, "do_flip_channel_order": False}).channel_order == "rgb"
    assert preprocessing.from_hugging_face({}, VIT).channel_order == "rgb"
    files = {"hugging_face": {"config": {}, "preprocessor": mobile}}
    for said in ("rgb", "bgr"):
        assert preprocessing.InputBody.model_validate({**files, "channel_order": said}).contract().channel_order == said
    given = {**files, "geometry": {"resize": 20}, "mean": [0.5]}
    assert preprocessing.InputBody.model_validate(given).contract().geometry == Geometry(resize=20)


def test_hugging_face_scales_other_than_to_one():
    offset = preprocessing.from_hugging_face({}, {**VIT, "rescale_factor": 1 / 127.5, "rescale_offset": True})
    assert offset.mean == pytest.approx((0.75,) * 3)  # (2 x - 1 - 0.5) / 0.5
    assert offset.std == pytest.approx((0.25,) * 3)
    none = preprocessing.from_hugging_face({}, {**VIT, "do_normalize": False, "do_resize": False})
    assert none.plain is False
    assert (none.geometry, none.mean, none.std) == (None, None, None)
    raw = preprocessing.from_hugging_face({}, {**VIT, "do_rescale": False, "do_normalize": False})
    assert raw.std == (1 / 255,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": None}, "lacks `mean`"),
        ({"crop_mode": "border"}, "`crop_mode` border is not done here"),
        ({"input_size": [3, 224, 192]}, "sides that differ"),
        ({"input_size": "224"}, "must have 3 whole numbers"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"interpolation": "random"}, "interpolation"),
        ({"crop_pct": 0}, "over 0 and at most 2"),
        ({"surprise": 1}, "not known here: `surprise`"),
        ({"label_offset": 1}, "shifts the classes"),
    ],
)
def test_a_configuration_of_timm_that_says_too_little_or_too_much(change, reason):
    with pytest.raises(ContractError, match=reason):
        preprocessing.from_timm({**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **change}})


@pytest.mark.parametrize(
    ("config", "processor", "reason"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, {}, "code of its own"),
        ({}, {"auto_map": {"AutoImageProcessor": "evil.py"}}, "code of its own"),
        ({}, {"size": None}, "lacks `size`"),
        ({}, {"image_mean": None}, "lacks `image_mean`"),
        ({}, {"size": {"longest_edge": 224}}, "`height` and `width`, or `shortest_edge`"),
        ({}, {"resample": 9}, "from 0 to 5"),
        ({}, {"do_pad": True}, "`do_pad` .* is not done here"),
        ({}, {"do_flip_channel_order": True}, "is known of the processor MobileViT alone"),
        ({}, {"crop_pct": 0.9}, "ConvNeXt and PoolFormer alone"),
        ({}, {"image_processor_type": "ConvNextImageProcessor", "do_center_crop": True}, "after the crop of ConvNeXt"),
        ({}, {"tokenizer": "x"}, "not known here: `tokenizer`"),
        ({"id2label": {"0": "a", "2": "b"}}, {}, "from 0"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, {}, "has 2 classes, and `num_labels` says 3"),
        ({"id2label": ["a"]}, {}, "must map numbers to names"),
        ({"num_channels": 4}, {}, "channels"),
    ],
)
def test_a_configuration_of_hugging_face_that_does_not_fit(config, processor, reason):
    with pytest.raises(ContractError, match=reason):
        preprocessing.from_hugging_face(config, {**VIT, **processor})


def test_unknown_weights():
    with pytest.raises(ContractError, match="no such weights"):
        preprocessing.from_torchvision("ResNet18_Weights.DEFAULT")


# -- held against the libraries --------------------------------------------------------------------

# Sides whose difference to every crop is even: libraries round half a pixel differently, Hugging Face both ways.
PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 7, 3), dtype=np.uint8)).resize((54, 72))
)
SIZES_OF_FILES = [{"shortest_edge": 42}, {"height": 36, "width": 44}, 42]
CHANGES: list[dict[str, Any]] = [
    {},
    {"do_center_crop": False},
    {"do_center_crop": True, "crop_size": {"height": 30, "width": 32}},
    {"do_center_crop": True, "crop_size": {"height": 80, "width": 80}},  # more than there is
    {"do_resize": False},
    {"do_rescale": False},
    {"do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3]},
    {"resample": 0},
    {"resample": 1},
]


@pytest.mark.libraries
@pytest.mark.parametrize("kind", preprocessing.KINDS)
def test_a_processor_makes_the_pixels_that_the_library_makes_with_it(kind):
    """Of files of today and of before 2022, whose sizes are numbers; what the library itself refuses is left out."""
    import_torchvision()
    own = getattr(importlib.import_module("transformers"), f"{kind}ImageProcessorPil")
    compared = 0
    for size, change in itertools.product(SIZES_OF_FILES, CHANGES):
        if kind == "ConvNext" and change.get("do_center_crop"):
            continue  # refused
        try:
            processor = own(
                size=size, crop_size=32, **({"crop_pct": 0.75} if kind in ("ConvNext", "PoolFormer") else {})
            )
            for name, value in change.items():
                setattr(processor, name, value)
            theirs = processor(images=PICTURE, return_tensors="np", input_data_format="channels_last", **change)[
                "pixel_values"
            ][0]
        except (ValueError, TypeError, AttributeError):
            continue
        document = json.loads(processor.to_json_string()) | change | {"size": size}
        contract = preprocessing.from_hugging_face({}, document)
        made = geometry.prepared(PICTURE, contract).astype(np.float64) / 255
        made = made[..., ::-1] if contract.channel_order == "bgr" else made
        mean, std = np.array(contract.mean or 0.0), np.array(contract.std or 1.0)
        assert np.allclose(((made - mean) / std).transpose(2, 0, 1), theirs, atol=1e-4), (size, change)
        compared += 1
    assert compared >= 10


@pytest.mark.libraries
def test_every_configuration_that_timm_has_for_published_weights_is_known():
    import_torchvision()
    timm = importlib.import_module("timm")
    refused = set()
    for name in timm.list_pretrained():
        own = json.loads(json.dumps(timm.get_pretrained_cfg(name).to_dict()))
        try:
            preprocessing.from_timm({"architecture": name, "pretrained_cfg": own})
        except ContractError as error:
            refused.add(str(error))
    assert refused <= {"timm's `crop_mode` border is not done here; use center or squash"}


@pytest.mark.libraries
def test_a_configuration_of_timm_makes_the_pixels_that_timm_makes():
    import_torchvision()
    data = importlib.import_module("timm.data")
    for change in ({}, {"crop_pct": 1.0}, {"crop_pct": 1.15}, {"crop_mode": "squash"}, {"interpolation": "bilinear"}):
        own = {**TIMM["pretrained_cfg"], "input_size": [3, 40, 40], **change}
        made = {name: own[name] for name in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")}
        theirs = data.create_transform(**made)(Image.fromarray(PICTURE)).numpy()
        contract = preprocessing.from_timm(own)
        pixels = geometry.prepared(PICTURE, contract).astype(np.float64) / 255
        pixels = (pixels - np.array(contract.mean)) / np.array(contract.std)
        assert np.allclose(pixels.transpose(2, 0, 1), theirs, atol=1e-4), change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"surprise": 1}, "members that are not known here: `surprise`"),
        ({"model_args": {"depth": 3}}, "make another network than its name does, .*`depth`"),
        ({"model_args": [1]}, "make another network"),
    ],
)
def test_a_config_of_timm_that_makes_another_network(change, reason):
    with pytest.raises(ContractError, match=reason):
        preprocessing.from_timm({**TIMM, **change})


def test_a_processor_without_a_name_is_that_of_the_model():
    old = {"size": 40, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    found = preprocessing.from_hugging_face({"model_type": "swin"}, old)
    assert found.geometry == Geometry(resize=(40, 40))
    with pytest.raises(ContractError, match="lacks `image_processor_type`; `AutoImageProcessor"):
        preprocessing.from_hugging_face({"model_type": "own"}, old)
    with pytest.raises(ContractError, match="the image processor DonutImageProcessor is not done here"):
        preprocessing.from_hugging_face({}, {**old, "image_processor_type": "DonutImageProcessor"})


ODD = [None, True, "x", 0, -1, 1.5, 10**9, [], {}, ["x"], [0.5], {"height": "x", "width": 1}, [[1]], float("nan")]


def test_odd_values_are_refused_and_never_fail():
    """A file is the client's: whatever it holds, the answer is a contract or a reason."""
    for name, value in itertools.product(sorted(preprocessing.PROCESSOR | {"image_processor_type"}), ODD):
        for change in ({}, {"do_center_crop": True}, {"image_processor_type": "ConvNextImageProcessor"}):
            with contextlib.suppress(ContractError):
                preprocessing.from_hugging_face(CONFIG, {**VIT, **change, name: value})
    for name, value in itertools.product(("id2label", "num_labels", "num_channels", "auto_map"), ODD):
        with contextlib.suppress(ContractError):
            preprocessing.from_hugging_face({**CONFIG, name: value}, VIT)
    for name, value in itertools.product((*TIMM["pretrained_cfg"], "label_offset", "label_names"), ODD):
        with contextlib.suppress(ContractError):
            preprocessing.from_timm({**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], name: value}})
    for name, value in itertools.product((*TIMM, "model_args"), ODD):
        with contextlib.suppress(ContractError):
            preprocessing.from_timm({**TIMM, name: value})


@pytest.mark.parametrize(
    ("architecture", "given", "params"),
    [
        ({"name": "timm"}, {"timm": {**TIMM, "global_pool": "avg"}}, {"name": "resnet18", "global_pool": "avg"}),
        (
            {"name": "timm", "params": {"name": "resnet34", "global_pool": None}},
            {"timm": {**TIMM, "global_pool": "avg"}},
            {"name": "resnet34", "global_pool": "avg"},
        ),
        ({"name": "timm", "params": {"name": "resnet34"}}, {"timm": TIMM["pretrained_cfg"]}, {"name": "resnet34"}),
        ({"name": "hugging_face"}, {"hugging_face": {"config": CONFIG, "preprocessor": VIT}}, {"config": CONFIG}),
        (
            {"name": "hugging_face", "params": {"config": {"model_type": "swin"}}},
            {"hugging_face": {"config": CONFIG, "preprocessor": VIT}},
            {"config": {"model_type": "swin"}},
        ),
        ({"name": "small_cnn", "params": {"width": 4}}, {"timm": TIMM}, {"width": 4}),
    ],
)
def test_what_a_file_says_of_the_network_may_be_left_out(architecture, given, params):
    assert preprocessing.with_file(architecture, given)["params"] == params


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"name": "timm", "params": 1}, {"name": ["timm"]}])
def test_odd_choices_are_left_to_the_checks_that_follow(odd):
    for given in (None, 1, {}, {"timm": None}, {"timm": 1}, {"timm": {"pretrained_cfg": 1}}, {"hugging_face": 1}):
        assert preprocessing.with_file(odd, given) == odd
