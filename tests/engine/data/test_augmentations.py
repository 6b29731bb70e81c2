"""Augmentations of fine-tuning: sizes, ranges, what is drawn for each image, and what each must leave alone."""

from __future__ import annotations

import pytest
import torch

from engine.data.augmentations import AUGMENTATIONS, erase, flip, jitter, resized_crop_flip


def images(n: int = 64, channels: int = 3, height: int = 12, width: int = 20) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shape_range_and_seed(name: str, channels: int) -> None:
    given = images(channels=channels)
    made = AUGMENTATIONS[name](given, generator())
    assert made.shape == given.shape
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert torch.equal(made, AUGMENTATIONS[name](given, generator()))
    assert not torch.equal(made, AUGMENTATIONS[name](given, generator(5)))
    assert torch.equal(given, images(channels=channels)), "the images given stay"


def test_half_are_flipped_and_the_others_stay() -> None:
    given = images(400)
    made = flip(given, generator())
    stayed = (made == given).all(3).all(2).all(1)
    flipped = (made == given.flip(3)).all(3).all(2).all(1)
    assert bool((stayed ^ flipped).all())
    assert 150 < int(flipped.sum()) < 250


def test_a_crop_is_a_part_of_the_image_with_its_own_values() -> None:
    columns = torch.linspace(0, 1, 20).expand(300, 1, 12, 20).contiguous()
    made = resized_crop_flip(columns, generator())
    spans = made.amax((1, 2, 3)) - made.amin((1, 2, 3))
    assert float(spans.max()) <= 1
    assert float(spans.min()) < 0.5, "some crops are narrow"
    steps = made[:, 0, 0].diff(dim=1)
    assert bool(((steps >= -1e-6).all(1) | (steps <= 1e-6).all(1)).all()), "the order of columns stays, or is flipped"
    assert torch.allclose(made[:, 0, :1], made[:, 0], atol=1e-5), "rows stay alike"


def test_jitter_of_a_grey_picture_stays_grey() -> None:
    grey = images(channels=1).expand(-1, 3, -1, -1)
    made = jitter(grey, generator())
    assert torch.allclose(made[:, 0], made[:, 2], atol=1e-5)
    assert not torch.allclose(made, grey, atol=1e-2)


def test_a_quarter_has_a_black_rectangle() -> None:
    given = images(2000).clamp_min(0.01)
    made = erase(given, generator())
    gone = (made == 0).all(1)
    shares = gone.float().mean((1, 2))
    erased = shares > 0
    assert 0.2 < float(erased.float().mean()) < 0.3
    assert float(shares.max()) < 0.5
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :]), "it is a rectangle"
    assert torch.equal(made[~erased], given[~erased])
