"""Input contracts from the files that people have: timm's and Hugging Face's configurations, torchvision's weights.

What such a file leaves out is never guessed, and what this page does not know is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.formats.input_contract import ContractError, Geometry, InputContract
from app.formats.torchvision_weights import IMAGENET_MEAN, IMAGENET_STD, NORMALISED_OTHERWISE, SIZES

MOST_CLASSES = 10_000

# -- torchvision -----------------------------------------------------------------------------------


def from_torchvision(weights: str) -> InputContract:
    """The contract of published weights, such as `ResNet18_Weights.IMAGENET1K_V1`.

    Raises:
        ContractError: torchvision has no such weights.
    """
    if weights not in SIZES:
        raise ContractError(
            "torchvision has no such weights; send a name such as `ResNet18_Weights.IMAGENET1K_V1`, with the network's "
            "own name before the dot"
        )
    resize, crop, interpolation = SIZES[weights]
    mean, std = NORMALISED_OTHERWISE.get(weights, (IMAGENET_MEAN, IMAGENET_STD))
    return _contract(
        {"resize": resize, "crop": crop, "interpolation": interpolation}, channels=3, mean=mean, std=std, names=None
    )


# -- timm ------------------------------------------------------------------------------------------

TIMM_NEEDED = ("input_size", "interpolation", "crop_pct", "mean", "std")
TIMM_OTHERS = {
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load",
    "test_input_size", "min_input_size", "fixed_input_size", "test_crop_pct", "crop_mode", "num_classes",
    "label_offset", "label_names", "label_descriptions", "pool_size", "test_pool_size", "first_conv", "classifier",
    "license", "description", "origin_url", "paper_name", "paper_ids", "notes",
}  # fmt: skip
"""Members of a `pretrained_cfg` that say nothing of pixels."""


def from_timm(config: Mapping[str, Any]) -> InputContract:
    """The contract in a timm `config.json`, or in the `pretrained_cfg` itself.

    Raises:
        ContractError: members are missing, unknown, or ask for what Lethe does not do.
    """
    own = config.get("pretrained_cfg", config)
    if not isinstance(own, Mapping):
        raise ContractError("timm's `pretrained_cfg` must be an object")
    _no_code(config)
    if missing := [name for name in TIMM_NEEDED if own.get(name) is None]:
        raise ContractError(f"timm's `pretrained_cfg` lacks {_list(missing)}; `timm.data.resolve_data_config` has them")
    if unknown := sorted(own.keys() - TIMM_OTHERS - set(TIMM_NEEDED)):
        raise ContractError(f"timm's `pretrained_cfg` has members that are not known here: {_list(unknown)}")
    if own.get("label_offset"):
        raise ContractError("timm's `label_offset` shifts the classes; send a network without it")
    channels, height, width = _numbers(own["input_size"], 3, "timm's `input_size`")
    fraction = own["crop_pct"]
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ContractError("timm's `crop_pct` must be over 0 and at most 1")
    large = [math.floor(side / fraction) for side in (height, width)]
    mode = own.get("crop_mode") or "center"
    if mode == "center" and height != width:
        raise ContractError("timm's `crop_mode` center with sides that differ is not done here; use squash")
    if mode not in ("center", "squash"):
        raise ContractError(f"timm's `crop_mode` {mode} is not done here; use center or squash")
    geometry = {
        "resize": large[0] if mode == "center" else large,
        "crop": [int(height), int(width)],
        "interpolation": own["interpolation"],
    }
    names = config.get("label_names") or own.get("label_names")
    count = config.get("num_classes", own.get("num_classes"))
    if names is not None and count is not None and len(names) != count:
        raise ContractError(f"timm's `label_names` has {len(names)} names for {count} classes")
    return _contract(geometry, channels=int(channels), mean=own["mean"], std=own["std"], names=names)


# -- Hugging Face ----------------------------------------------------------------------------------

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers, which `resample` has."""
PROCESSOR = {
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor",
    "rescale_offset", "do_normalize", "image_mean", "image_std", "do_convert_rgb",
}  # fmt: skip
PROCESSOR_OTHERS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "default_to_square", "return_tensors",
    "data_format", "input_data_format", "device", "disable_grouping", "include_top", "do_reduce_labels",
    "reduce_labels", "do_pad", "pad_size", "do_flip_channel_order", "_valid_processor_keys",
}  # fmt: skip


def from_hugging_face(config: Mapping[str, Any], processor: Mapping[str, Any]) -> InputContract:
    """The contract in a `config.json` and its `preprocessor_config.json`.

    Raises:
        ContractError: members are missing, unknown, of another task, name code, or ask for what Lethe does not do.
    """
    for document in (config, processor):
        _no_code(document)
    if unknown := sorted(processor.keys() - PROCESSOR - PROCESSOR_OTHERS):
        raise ContractError(f"`preprocessor_config.json` has members that are not known here: {_list(unknown)}")
    for name in ("do_pad", "do_flip_channel_order", "do_reduce_labels", "reduce_labels"):
        if processor.get(name):
            raise ContractError(f"`{name}` of `preprocessor_config.json` is not done here")
    channels = config.get("num_channels", 3)
    mean, std = _scaled(processor)
    return _contract(_processed(processor), channels=channels, mean=mean, std=std, names=class_names(config))


def class_names(config: Mapping[str, Any]) -> list[str] | None:
    """The classes of a `config.json` by output; None where it only numbers them.

    Raises:
        ContractError: `id2label` does not number them from 0, or `num_labels` is another number.
    """
    labels = config.get("id2label")
    if labels is None:
        return None
    if not isinstance(labels, Mapping) or not all(isinstance(name, str) for name in labels.values()):
        raise ContractError("`id2label` of `config.json` must map numbers to names")
    by_number = {str(number): name for number, name in labels.items()}
    if set(by_number) != {str(number) for number in range(len(by_number))}:
        raise ContractError(f"`id2label` of `config.json` must number its {len(by_number)} classes from 0")
    count = config.get("num_labels", len(by_number))
    if count != len(by_number):
        raise ContractError(f"`id2label` of `config.json` has {len(by_number)} classes, and `num_labels` says {count}")
    names = [by_number[str(number)] for number in range(len(by_number))]
    return None if names == [f"LABEL_{number}" for number in range(len(names))] else names


def _processed(processor: Mapping[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    crop = _crop(processor) if processor.get("do_center_crop") else None
    if processor.get("do_resize", True):
        size = _needed(processor, "size")
        number = _needed(processor, "resample")
        if type(number) is not int or not 0 <= number < len(RESAMPLE):
            raise ContractError("`resample` of `preprocessor_config.json` must be a number from 0 to 5")
        found["interpolation"] = RESAMPLE[number]
        found["resize"] = _resize(size, has_crop=crop is not None)
        fraction = processor.get("crop_pct")
        if fraction is not None and "ConvNext" not in str(_type(processor)):
            raise ContractError("`crop_pct` of `preprocessor_config.json` is known of ConvNeXt's processor alone")
        if fraction is not None and isinstance(found["resize"], int):
            side = found["resize"]
            if side < 384:  # where that processor crops
                found["resize"], crop = int(side / fraction), [side, side]
            else:
                found["resize"] = [side, side]
    if crop is not None:
        found["crop"] = crop
    return found or None


def _type(processor: Mapping[str, Any]) -> Any:
    return processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""


def _resize(size: Any, *, has_crop: bool) -> int | list[int]:
    if isinstance(size, int):  # of before 2022: the shorter side where a crop follows
        return size if has_crop else [size, size]
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return [size["height"], size["width"]]
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        edge: int = size["shortest_edge"]
        return edge
    raise ContractError("`size` of `preprocessor_config.json` must have `height` and `width`, or `shortest_edge`")


def _crop(processor: Mapping[str, Any]) -> list[int]:
    size = _needed(processor, "crop_size")
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return [size["height"], size["width"]]
    raise ContractError("`crop_size` of `preprocessor_config.json` must have `height` and `width`")


def _scaled(processor: Mapping[str, Any]) -> tuple[list[float] | None, list[float] | None]:
    """Mean and deviation for pixels of [0, 1]: the processor's own are for pixels of 0 to 255 times its factor."""
    factor = 255 * float(_needed(processor, "rescale_factor")) if processor.get("do_rescale", True) else 255.0
    shift = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if processor.get("do_normalize", True):
        mean, std = list(_needed(processor, "image_mean")), list(_needed(processor, "image_std"))
    if math.isclose(factor, 1.0, rel_tol=1e-6) and not shift:
        factor = 1.0
    mean, std = [(value + shift) / factor for value in mean], [value / factor for value in std]
    return (None if mean == [0.0] else mean), (None if std == [1.0] else std)


def _needed(processor: Mapping[str, Any], name: str) -> Any:
    if processor.get(name) is None:
        raise ContractError(f"`preprocessor_config.json` lacks `{name}`")
    return processor[name]


# -- both ------------------------------------------------------------------------------------------


def _no_code(config: Mapping[str, Any]) -> None:
    if "auto_map" in config or config.get("custom_pipelines"):
        raise ContractError("the configuration names code of its own (`auto_map`); such code never runs here")


def _contract(geometry: Any, *, channels: Any, mean: Any, std: Any, names: Any) -> InputContract:
    try:
        made = {"geometry": geometry and Geometry.model_validate(geometry), "channels": channels}
        return InputContract.model_validate({**made, "mean": mean, "std": std, "class_names": names})
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ContractError(f"the configuration makes no contract: {where or 'it'}: {reason}") from None


def _numbers(values: Any, count: int, what: str) -> list[int]:
    if not isinstance(values, Sequence) or len(values) != count or not all(type(value) is int for value in values):
        raise ContractError(f"{what} must have {count} whole numbers")
    return list(values)


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:8]) + (" …" if len(names) > 8 else "")


# -- a body ----------------------------------------------------------------------------------------


class HuggingFaceInput(BaseModel):
    """Both documents as the library saved them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    config: dict[str, Any] = Field(description="`config.json`")
    preprocessor: dict[str, Any] = Field(description="`preprocessor_config.json`")


class InputBody(InputContract):
    """An input contract, or where to read one. What is sent beside a file takes the place of what the file says."""

    timm: dict[str, Any] | None = Field(None, description="timm's `config.json`, or a `pretrained_cfg`")
    hugging_face: HuggingFaceInput | None = None
    torchvision: str | None = Field(
        None, max_length=100, description="the name of published weights, such as `ResNet18_Weights.IMAGENET1K_V1`"
    )

    @model_validator(mode="after")
    def _one_file(self) -> InputBody:
        if sum(each is not None for each in (self.timm, self.hugging_face, self.torchvision)) > 1:
            raise ValueError("send one of `timm`, `hugging_face` and `torchvision`")
        self.contract()  # what it says must make one
        return self

    def contract(self) -> InputContract:
        """The contract, with what a file says written out."""
        read: dict[str, Any] = {}
        if self.timm is not None:
            read = from_timm(self.timm).model_dump()
        elif self.hugging_face is not None:
            files = self.hugging_face
            read = from_hugging_face(files.config, files.preprocessor).model_dump()
        elif self.torchvision is not None:
            read = from_torchvision(self.torchvision).model_dump()
        own = self.model_fields_set & InputContract.model_fields.keys()
        return InputContract.model_validate({**read, **self.model_dump(include=set(own))})
