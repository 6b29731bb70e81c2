"""Input contracts: what they make of a shape, which copies they share, and what does not fit."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.formats.input_contract import ContractError, Geometry, InputContract


@pytest.mark.parametrize(
    ("geometry", "shape", "made"),
    [
        ({"resize": 64}, (32, 48, 3), (64, 96, 3)),
        ({"resize": 64}, (48, 32, 3), (96, 64, 3)),
        ({"resize": 20}, (32, 33, 3), (20, 20, 3)),  # 20.6 is cut, not rounded
        ({"resize": [64, 40]}, (32, 32, 1), (64, 40, 1)),
        ({"resize": 64, "crop": 56}, (32, 48, 3), (56, 56, 3)),
        ({"crop": [8, 10]}, (32, 48, 3), (8, 10, 3)),
    ],
)
def test_a_geometry_says_what_size_it_makes(geometry, shape, made):
    assert InputContract(geometry=Geometry.model_validate(geometry)).pixels_of(shape) == made


def test_a_copy_is_made_only_where_pixels_change_and_is_shared_by_contracts_of_equal_pixels():
    plain, normalised = InputContract(), InputContract(mean=(0.5,), std=(0.5, 0.5, 0.5))
    assert plain.copy_of((32, 32, 3)) is None
    assert normalised.copy_of((32, 32, 3)) is None
    geometry = Geometry(resize=64)
    resized, both = InputContract(geometry=geometry), InputContract(geometry=geometry, mean=(0.5,), channels=3)
    assert resized.copy_of((32, 32, 3)) == both.copy_of((32, 32, 3)) is not None
    assert resized.copy_of((64, 64, 3)) is None, "it keeps such images as they are"
    other = InputContract(geometry=Geometry(resize=64, interpolation="bicubic"))
    assert other.copy_of((32, 32, 3)) != resized.copy_of((32, 32, 3))
    grey = InputContract(channels=1)
    assert grey.copy_of((8, 8, 1)) is None
    assert grey.copy_of((8, 8, 3)) is not None
    assert grey.pixels_of((8, 8, 3)) == (8, 8, 1)


def test_channels():
    assert InputContract().channels_of(1) == 1
    assert InputContract(channels=3).channels_of(1) == 3
    assert InputContract(mean=(0.1, 0.2, 0.3)).channels_of(1) == 3, "three means are those of three channels"
    assert InputContract().channels_of(4) == 4
    with pytest.raises(ContractError, match="have 4 channels and the network takes 3"):
        InputContract(channels=3).channels_of(4)


def test_contracts_of_before_the_order_of_channels_are_written_as_they_were():
    assert "channel_order" not in InputContract(mean=(0.5,)).model_dump()
    assert "channel_order" not in InputContract(mean=(0.5,)).model_dump_json()
    turned = InputContract(channel_order="bgr")
    assert not turned.plain
    assert turned.channels_of(1) == 3
    assert InputContract.model_validate(turned.model_dump(mode="json")) == turned


def test_classes_in_another_order():
    contract = InputContract(class_names=("dog", "cat", "bird"))
    assert contract.order(["bird", "cat", "dog"], 3) == [2, 1, 0]
    assert contract.order(["dog", "cat", "bird"], 3) is None
    assert contract.order(None, 3) is None
    assert contract.order(["bird", None, "dog"], 3) == [2, 1, 0], "an erased class's name is the one that is left"
    assert InputContract().order(["a", "b"], 2) is None
    with pytest.raises(ContractError, match="has 3 names, and the dataset has 4 classes"):
        contract.order(None, 4)
    with pytest.raises(ContractError, match="class 0 is not among"):
        contract.order(["fish", "cat", "dog"], 3)


def test_class_names_are_the_same_in_either_form_of_unicode():
    """As seen: what a Mac sent was refused."""
    contract = InputContract(class_names=("u\u0308ber", "e\u0301", "z"))
    for names in (["\u00e9", "z", "\u00fcber"], ["e\u0301", "z", "u\u0308ber"]):
        assert contract.order(names, 3) == [1, 2, 0]
    both = InputContract(class_names=("\u00e9", "e\u0301", "z"))
    with pytest.raises(ContractError, match="twice, in two forms"):
        both.order(["\u00e9", "a", "z"], 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"channels": 1, "mean": [0.1, 0.2, 0.3]}, "`mean` has 3 numbers, for 1 channels"),
        ({"std": [0.1, 0.2]}, "`std` has 2 numbers"),
        ({"channels": 1, "channel_order": "bgr"}, "`channel_order` is one of 3 channels"),
        ({"channel_order": "gbr"}, "'rgb' or 'bgr'"),
        ({"std": [0.0]}, "greater than 0"),
        ({"mean": [float("nan")]}, "finite|greater|less"),
        ({"class_names": ["a", "a"]}, "a name twice"),
        ({"geometry": {}}, "resizes, crops or both"),
        ({"geometry": {"resize": 0}}, "greater than or equal to 1"),
        ({"geometry": {"resize": 8, "interpolation": "lanczos", "antialias": False}}, "no form without antialias"),
        ({"geometry": {"resize": 5000}}, "less than or equal to 1024"),
        ({"mean": "0.5"}, "tuple"),
        ({"means": [0.5]}, "Extra"),
    ],
)
def test_what_makes_no_contract_is_refused(body, reason):
    with pytest.raises(ValidationError, match=reason):
        InputContract.model_validate(body)
