"""Contracts read from what people have: torchvision's weights, timm's and Hugging Face's configurations."""

from __future__ import annotations

import pytest

from app.formats import preprocessing
from app.formats.input_contract import ContractError, Geometry
from app.formats.torchvision_weights import SIZES
from engine.data.torchvision_ops import import_torchvision

TIMM = {
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
        ({"crop_pct": 0}, "over 0 and at most 1"),
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
        ({}, {"crop_pct": 0.9}, "ConvNeXt's processor alone"),
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
