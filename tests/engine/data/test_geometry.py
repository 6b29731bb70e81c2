"""Copies that contracts make: equal to what torchvision's own transforms do with a decoded image."""

from __future__ import annotations

import importlib
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from app.formats.input_contract import Geometry, InputContract
from app.formats.preprocessing import from_torchvision
from engine.data import geometry
from engine.data.torchvision_ops import import_torchvision


def random_images(n: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (300, 233), (64, 97), (225, 500)])
@pytest.mark.parametrize("weights", ["ResNet18_Weights.IMAGENET1K_V1", "EfficientNet_B1_Weights.IMAGENET1K_V2"])
def test_pixels_are_those_of_torchvisions_transforms(height, width, weights):
    models = import_torchvision().models
    contract, (image,) = from_torchvision(weights), random_images(1, height, width)
    theirs = models.get_weight(weights).transforms()(Image.fromarray(image))
    ours = geometry.prepared(image, contract).astype(np.float32) / 255
    mean, std = (np.array(values, dtype=np.float32) for values in (contract.mean, contract.std))
    assert np.allclose((ours - mean) / std, theirs.permute(1, 2, 0).numpy(), atol=1e-5)


def test_a_crop_larger_than_the_image_adds_black():
    (image,) = random_images(1, 7, 12)
    made = geometry.prepared(image, InputContract(geometry=Geometry(crop=10)))
    import_torchvision()
    theirs = importlib.import_module("torchvision.transforms").CenterCrop(10)(Image.fromarray(image))
    assert np.array_equal(made, np.asarray(theirs))
    assert made[0].max() == 0


def test_grey_images_and_many_channels():
    grey, many = random_images(1, 8, 8, 1)[0], random_images(1, 8, 8, 4)[0]
    doubled = InputContract(geometry=Geometry(resize=16))
    assert geometry.prepared(grey, doubled).shape == (16, 16, 1)
    made = geometry.prepared(many, doubled)
    assert made.shape == (16, 16, 4)
    assert np.array_equal(made[..., :1], geometry.prepared(many[..., :1], doubled))
    luminance = geometry.prepared(random_images(1, 8, 8)[0], InputContract(channels=1))
    assert luminance.shape == (8, 8, 1)


def test_without_antialias_small_pictures_of_large_ones_differ():
    (image,) = random_images(1, 64, 64)
    smooth, rough = (
        geometry.prepared(image, InputContract(geometry=Geometry(resize=8, antialias=antialias)))
        for antialias in (True, False)
    )
    assert smooth.shape == rough.shape == (8, 8, 3)
    assert rough.std() > 2 * smooth.std()


def test_a_copy_is_written_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "ROWS_AT_ONCE", 3)
    images, contract = random_images(8, 10, 12), InputContract(geometry=Geometry(resize=6, crop=5))
    np.save(tmp_path / "source.npy", images)
    geometry.write_copy(tmp_path / "source.npy", tmp_path / "copy.npy", contract, threads=2)
    made = np.load(tmp_path / "copy.npy")
    assert np.array_equal(made, np.stack([geometry.prepared(image, contract) for image in images]))
    assert made.dtype == np.uint8


def waves(height: int, width: int, channels: int) -> np.ndarray:
    """Of eight levels from pixel to pixel: to round a place differently changes little, to be elsewhere much."""
    places = np.add.outer(np.arange(height), 1.3 * np.arange(width))[..., None] + 40 * np.arange(channels)
    return (127.5 + 120 * np.sin(places / 15)).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("crop", [15, (8, 30), (60, 7)])
def test_a_part_is_that_of_the_whole(monkeypatch, interpolation, antialias, crop):
    if not antialias and interpolation not in ("bilinear", "bicubic", "nearest"):
        return
    contract = InputContract(geometry=Geometry(resize=20, interpolation=interpolation, antialias=antialias, crop=crop))
    for height, width in ((1, 200), (200, 1), (3, 100), (100, 2), (1, 1), (97, 64), (320, 500)):
        for channels in (1, 3, 4):
            image = waves(height, width, channels)
            whole = geometry.prepared(image, contract)
            with monkeypatch.context() as patched:
                patched.setattr(geometry, "MOST_AT_ONCE", 0)
                part = geometry.prepared(image, contract)
            assert part.shape == whole.shape
            difference = np.abs(part.astype(int) - whole)
            assert difference.max() <= 11
            assert difference.mean() < 1


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 20_000), (20_000, 1), (1, 65_535), (1, 1)])
def test_a_picture_of_one_line_is_resized_where_the_crop_is(height, width, antialias):
    """As seen: five gigabytes, of which the crop kept a hundredth of a percent."""
    (image,) = random_images(1, height, width)
    contract = InputContract(geometry=Geometry(resize=256, crop=224, antialias=antialias))
    tracemalloc.start()
    made = geometry.prepared(image, contract)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.shape == (224, 224, 3)
    assert made.any()
    assert peak < 2**26
