"""The input contract of a model: from a dataset's pixels to what its network sees, and its classes in their order.

Two halves. Geometry makes the pixels, of which attacks and distances speak. Normalisation is inside the module, so that
a radius is one in pixels of [0, 1] whichever mean and standard deviation a network was trained with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.formats.names import normal

MAX_SIDE = 1024  # pixels that a network sees
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Sides = Annotated[tuple[Side, Side], Field(strict=False)]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Value = Annotated[float, Field(ge=-1000, le=1000)]
Positive = Annotated[float, Field(gt=0, le=1000)]


class ContractError(ValueError):
    """A contract that does not fit; the text is for the client."""


class Geometry(BaseModel):
    """What becomes of an image before the network: a resize, then a crop at the centre.

    Both as torchvision does them on a decoded image. Where the crop is larger than the image, black is added.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    resize: Side | Sides | None = Field(
        None, description="the shorter side in pixels, the sides' ratio kept; or exactly [height, width]"
    )
    interpolation: Interpolation = "bilinear"
    antialias: bool = Field(
        True,
        description="as Pillow resizes; false: as tensors are resized without it (bilinear, bicubic, nearest)",
    )
    crop: Side | Sides | None = Field(None, description="side, or [height, width], of the part at the centre to keep")

    @model_validator(mode="after")
    def _possible(self) -> Geometry:
        if self.resize is None and self.crop is None:
            raise ValueError("a geometry resizes, crops or both; leave it out where images stay as they are")
        if not self.antialias and self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"{self.interpolation} has no form without antialias")
        return self

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize. The longer side is cut to whole pixels, as torchvision does."""
        if self.resize is None:
            return height, width
        if not isinstance(self.resize, int):
            return self.resize
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def one_size(self) -> tuple[int, int] | None:
        """Height and width that every image gets, whatever its own; None where they depend on that."""
        if self.crop is None and (self.resize is None or isinstance(self.resize, int)):
            return None
        return self.sides(1, 1)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the network sees of an image of this size."""
        if self.crop is None:
            return self.resized(height, width)
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


class InputContract(BaseModel):
    """What a network was trained to see. Without members it is that of an image as it is: mean 0, deviation 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    geometry: Geometry | None = Field(None, description="null: the dataset's images as they are")
    channels: Literal[1, 3] | None = Field(
        None,
        description="of the network's input; null: as the dataset's. Grey images are repeated for three, colours "
        "become their luminance for one",
    )
    # Left out where it has its default, so that contracts of before the field are still the same.
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb",
        exclude_if=lambda value: value == "rgb",
        description="of the network's input, and of `mean` and `std`; bgr: as OpenCV reads pictures",
    )
    mean: Annotated[tuple[Value, ...], Field(strict=False, min_length=1, max_length=3)] | None = Field(
        None, description="of each channel, or one for all, in pixels of [0, 1]; null: 0"
    )
    std: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1, max_length=3)] | None = Field(
        None, description="the same of the standard deviation; null: 1"
    )
    class_names: (
        Annotated[tuple[ClassName | None, ...], Field(strict=False, min_length=1, max_length=10_000)] | None
    ) = Field(
        None,
        description="in the order of the network's outputs; null: the order of the dataset's labels. A name in it is "
        "null once all samples of the class are erased",
    )

    @model_validator(mode="after")
    def _fits_itself(self) -> InputContract:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None or len(values) == 1:
                continue
            if len(values) == 2 or (self.channels is not None and len(values) != self.channels):
                wanted = f"{self.channels} channels" if self.channels else "1 or 3 channels"
                raise ValueError(f"`{name}` has {len(values)} numbers, for {wanted}: send one for each, or one for all")
        if self.channel_order == "bgr" and self.channels == 1:
            raise ValueError("`channel_order` is one of 3 channels")
        named = [name for name in self.class_names or () if name is not None]
        if len(set(named)) < len(named):
            raise ValueError("`class_names` has a name twice")
        return self

    @property
    def plain(self) -> bool:
        """Whether images reach the network as they are."""
        absent = self.geometry is None and self.channels is None and self.mean is None and self.std is None
        return absent and self.channel_order == "rgb"

    def channels_of(self, channels: int) -> int:
        """Channels of the network's input, for images of `channels`.

        Raises:
            ContractError: the images cannot be given to such a network.
        """
        most = max(len(self.mean or ()), len(self.std or ()))
        wanted = self.channels or (3 if most == 3 or self.channel_order == "bgr" else channels)
        if channels not in (1, 3) and wanted != channels:
            raise ContractError(f"the dataset's images have {channels} channels and the network takes {wanted}")
        return wanted

    def pixels_of(self, shape: Sequence[int | None]) -> tuple[int, int, int]:
        """(H, W, C) of the pixels that it makes of images of `shape` (H, W, C); H and W None: of different sizes.

        Raises:
            ContractError: see `channels_of`; or what it makes of them is not of one size, or too large.
        """
        height, width, channels = shape
        if self.channels_of(channels or 1) == 1:
            channels = 1
        if height is None or width is None:
            made = self.geometry.one_size() if self.geometry else None
            if made is None:
                raise ContractError(
                    "the dataset's pictures are of different sizes: give the model an `input` whose geometry makes "
                    "them one size, by a crop or by a resize to [height, width]"
                )
        else:
            made = self.geometry.sides(height, width) if self.geometry else (height, width)
        if max(made) > MAX_SIDE:
            raise ContractError(
                f"the network would see {made[0]} x {made[1]} pixels, and at most {MAX_SIDE} a side are taken: give "
                "the model an `input` with a geometry"
            )
        return *made, channels or 1

    def copy_of(self, shape: Sequence[int | None]) -> str | None:
        """Names the copy that it makes of a dataset with images of `shape` (H, W, C); None: it takes them as they are.

        Contracts that make the same pixels share the copy.
        """
        geometry = self.geometry
        grey = shape[2] == 3 and self.channels_of(3) == 1
        if not grey and (geometry is None or self._keeps(shape)):
            return None
        made = {"geometry": geometry.model_dump(mode="json") if geometry else None, "grey": grey, "by": 1}
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    def _keeps(self, shape: Sequence[int | None]) -> bool:
        geometry, (height, width, _) = self.geometry, shape
        if height is None or width is None:
            return False
        return geometry is None or (geometry.resized(height, width) == geometry.sides(height, width) == (height, width))

    def order(self, labels: Sequence[str | None] | None, classes: int) -> list[int] | None:
        """By label of the dataset, the output that stands for it; None where they are in the same order.

        labels: the dataset's class names; None, or None in a place, where it has none.

        Raises:
            ContractError: another number of classes, or other names.
        """
        names = self.class_names
        if names is None:
            return None
        if len(names) != classes:
            raise ContractError(
                f"`class_names` has {len(names)} names, and the dataset has {classes} classes: the network's outputs "
                "must be the dataset's classes"
            )
        if labels is None:
            return None
        where = {normal(name): output for output, name in enumerate(names) if name is not None}
        if len(where) < sum(name is not None for name in names):
            raise ContractError("`class_names` has a name twice, in two forms of Unicode")
        labels = [name and normal(name) for name in labels]
        if unknown := [label for label, name in enumerate(labels) if name is not None and name not in where]:
            raise ContractError(  # not by its name: what is said here may outlive the class
                f"the name of the dataset's class {unknown[0]} is not among `class_names`: send the dataset's names in "
                "the order of the network's outputs"
            )
        known = {where[name] for name in labels if name is not None}
        rest = iter(output for output in range(classes) if output not in known)
        found = [next(rest) if name is None else where[name] for name in labels]
        return None if found == list(range(classes)) else found
