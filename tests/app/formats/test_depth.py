"""Pixels of other types as 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.formats.depth import as_before, of_few_levels, of_floats, of_integers

EVERY = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


@pytest.mark.parametrize("widened", [EVERY.astype(np.uint16) << 8, EVERY.astype(np.uint16) * 257])
def test_8_bits_that_were_widened_to_16_come_out_as_they_were(widened: Any) -> None:
    assert np.array_equal(of_integers(widened), EVERY)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("by", [255, 256])
def test_8_bits_that_were_divided_come_out_as_they_were(kind: Any, by: int) -> None:
    assert np.array_equal(of_floats((EVERY / by).astype(kind)), EVERY)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_are_scaled_to_all_of_8(bits: int) -> None:
    assert np.array_equal(of_integers(EVERY.astype(np.uint16) << (bits - 8), bits), EVERY)
    most = 2**bits - 1
    values = np.array([[[0, 1, most // 2, most]]], np.uint16)
    assert of_integers(values, bits).tolist() == [[[0, round(255 / most), 127, 255]]]


def test_pictures_of_few_levels_are_counted() -> None:
    values = np.zeros((5, 2, 2), np.uint16)
    values[1:, 0, 0] = [1, 4095, 4096, 65535]
    assert of_few_levels(values) == 2, "one that is black has no levels to lose"


def test_16_bits_are_scaled_to_the_nearest_picture_by_picture() -> None:
    deep = np.array([[[49151, 300, 65535]], [[49152, 512, 65280]]], np.uint16)
    assert of_integers(deep).tolist() == [[[191, 1, 255]], [[192, 2, 255]]]


@pytest.mark.parametrize("value", [1.001, -0.1, np.nan, np.inf])
def test_floats_of_no_known_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        of_floats(np.array([[0.5, value]]))


def test_what_versions_before_made_of_them_is_known() -> None:
    shifted, divided = EVERY.astype(np.uint16) << 8, EVERY / 256
    scaled = (shifted.astype(np.uint32) * 255 + 32767) // 65535
    assert np.array_equal(as_before(of_integers(shifted)), scaled)
    assert np.array_equal(as_before(of_floats(divided)), np.rint(divided * 255))
