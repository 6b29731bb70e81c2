"""Input contracts from the files that people have: timm's and Hugging Face's configurations, torchvision's weights.

What such a file leaves out is never guessed, and what this page does not know is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
TIMM_CONFIG = {
    "architecture", "pretrained_cfg", "num_classes", "num_features", "global_pool", "label_names", "label_descriptions",
    "model_args", "license", "license_name", "license_link", "tags", "datasets", "library_name", "base_model",
}  # fmt: skip
"""Members of a `config.json`."""
TIMM_ARGS = {
    "num_classes", "in_chans", "global_pool", "img_size", "drop_rate", "drop_path_rate", "attn_drop_rate",
    "proj_drop_rate", "pos_drop_rate", "patch_drop_rate", "drop_block_rate", "pretrained", "scriptable", "exportable",
    "bn_momentum",
}  # fmt: skip
"""Arguments that the contract, the number of classes or the architecture say, or that only training notices."""
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
    if own is not config:
        if unknown := sorted(config.keys() - TIMM_CONFIG):
            raise ContractError(f"timm's `config.json` has members that are not known here: {_list(unknown)}")
        args = config.get("model_args") or {}
        if not isinstance(args, Mapping) or (unknown := sorted(args.keys() - TIMM_ARGS)):
            raise ContractError(
                f"timm's `model_args` make another network than its name does, which is not done here: {_list(unknown)}"
            )
    if missing := [name for name in TIMM_NEEDED if own.get(name) is None]:
        raise ContractError(f"timm's `pretrained_cfg` lacks {_list(missing)}; `timm.data.resolve_data_config` has them")
    if unknown := sorted(own.keys() - TIMM_OTHERS - set(TIMM_NEEDED)):
        raise ContractError(f"timm's `pretrained_cfg` has members that are not known here: {_list(unknown)}")
    if own.get("label_offset"):
        raise ContractError("timm's `label_offset` shifts the classes; send a network without it")
    channels, height, width = _numbers(own["input_size"], 3, "timm's `input_size`")
    fraction = own["crop_pct"]
    if not isinstance(fraction, int | float) or not 0 < fraction <= 2:
        raise ContractError("timm's `crop_pct` must be over 0 and at most 2")
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
    if names is not None and not isinstance(names, list):
        raise ContractError("timm's `label_names` must be a list")
    if names is not None and count is not None and len(names) != count:
        raise ContractError(f"timm's `label_names` has {len(names)} names for {count} classes")
    return _contract(geometry, channels=int(channels), mean=own["mean"], std=own["std"], names=names)


# -- Hugging Face ----------------------------------------------------------------------------------

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers, which `resample` has."""
PROCESSOR = {
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor",
    "rescale_offset", "do_normalize", "image_mean", "image_std", "include_top", "do_convert_rgb",
}  # fmt: skip
PROCESSOR_OTHERS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "default_to_square", "return_tensors",
    "data_format", "input_data_format", "device", "disable_grouping", "do_reduce_labels", "reduce_labels", "do_pad",
    "pad_size", "do_flip_channel_order", "image_seq_length", "_valid_processor_keys",
}  # fmt: skip


class _Kind(NamedTuple):
    """What an image processor of the library does by itself.

    square: a `size` that is one number means both sides, else the shorter one. crops: `do_center_crop` if it is absent;
    None: it never does, whatever the file says. flips: it turns the order of channels round, unless the file says that
    it does not. normalises: as the file says, or never.
    """

    square: bool = False
    crops: bool | None = False
    flips: bool = False
    normalises: bool = True


KINDS = {
    "Beit": _Kind(square=True),
    "Bit": _Kind(crops=True),
    "CLIP": _Kind(crops=True),
    "ConvNext": _Kind(crops=None),
    "DeiT": _Kind(square=True, crops=True),
    "EfficientNet": _Kind(square=True),
    "Levit": _Kind(crops=True),
    "MobileNetV1": _Kind(crops=True),
    "MobileNetV2": _Kind(crops=True),
    "MobileViT": _Kind(crops=True, flips=True, normalises=False),
    "PoolFormer": _Kind(crops=True),
    "Pvt": _Kind(square=True),
    "Segformer": _Kind(square=True, crops=None),
    "Siglip": _Kind(),
    "ViT": _Kind(square=True),
}
"""By the name of the class, without its ending. `tests/app/formats/test_preprocessing.py` compares their pixels."""
ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
KIND_OF_MODEL = {
    "beit": "Beit", "bit": "Bit", "convnext": "ConvNext", "convnextv2": "ConvNext", "cvt": "ConvNext",
    "data2vec-vision": "Beit", "deit": "DeiT", "dinov2": "Bit", "efficientnet": "EfficientNet", "focalnet": "Bit",
    "hiera": "Bit", "levit": "Levit", "mobilenet_v1": "MobileNetV1", "mobilenet_v2": "MobileNetV2",
    "poolformer": "PoolFormer", "pvt": "Pvt", "pvt_v2": "Pvt", "regnet": "ConvNext", "resnet": "ConvNext",
    "segformer": "Segformer", "siglip": "Siglip", "swin": "ViT", "swinv2": "ViT", "vit": "ViT", "vit_msn": "ViT",
}  # fmt: skip
"""By `model_type`: files of before 2022 do not name their class."""
SAVE_AGAIN = "`AutoImageProcessor.from_pretrained(folder).save_pretrained(folder)` writes out what it leaves out"


def from_hugging_face(config: Mapping[str, Any], processor: Mapping[str, Any]) -> InputContract:
    """The contract in a `config.json` and its `preprocessor_config.json`.

    Raises:
        ContractError: members are missing, unknown, of another task, name code, or ask for what Lethe does not do.
    """
    for document in (config, processor):
        _no_code(document)
    if unknown := sorted(processor.keys() - PROCESSOR - PROCESSOR_OTHERS):
        raise ContractError(f"`preprocessor_config.json` has members that are not known here: {_list(unknown)}")
    kind = _kind(config, processor)
    for name in ("do_pad", "do_reduce_labels", "reduce_labels"):
        if processor.get(name):
            raise ContractError(f"`{name}` of `preprocessor_config.json` is not done here")
    flips = bool(processor.get("do_flip_channel_order", KINDS[kind].flips))
    if flips and not KINDS[kind].flips:
        raise ContractError("`do_flip_channel_order` is known of the processor MobileViT alone")
    mean, std = _scaled(kind, processor)
    return _contract(
        _processed(kind, processor),
        channels=config.get("num_channels", 3),
        order="bgr" if flips else "rgb",
        mean=mean,
        std=std,
        names=class_names(config),
    )


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


def _kind(config: Mapping[str, Any], processor: Mapping[str, Any]) -> str:
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if named is None:
        named = f"{KIND_OF_MODEL.get(str(config.get('model_type')), '')}ImageProcessor"
    kind = next((str(named).removesuffix(end) for end in ENDINGS if str(named).endswith(end)), str(named))
    if not kind:
        raise ContractError(f"`preprocessor_config.json` lacks `image_processor_type`; {SAVE_AGAIN}")
    if kind not in KINDS:
        raise ContractError(f"the image processor {named} is not done here: send the contract's own members")
    return kind


def _processed(kind: str, processor: Mapping[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    crops = KINDS[kind].crops
    crop = _crop(processor) if crops is not None and processor.get("do_center_crop", crops) else None
    if processor.get("do_resize", True):
        size = _needed(processor, "size")
        number = _needed(processor, "resample")
        if type(number) is not int or not 0 <= number < len(RESAMPLE):
            raise ContractError("`resample` of `preprocessor_config.json` must be a number from 0 to 5")
        found["interpolation"] = RESAMPLE[number]
        resize = _resize(size, square=KINDS[kind].square)
        if kind == "ConvNext" and processor.get("do_center_crop"):
            raise ContractError("`do_center_crop` after the crop of ConvNeXt's processor is not done here")
        if kind == "ConvNext" and isinstance(resize, int):
            if resize < 384:  # where that processor crops
                resize, crop = int(resize / _fraction(processor)), [resize, resize]
            else:
                resize = [resize, resize]
        elif kind == "PoolFormer" and processor.get("crop_pct") is not None:
            resize = _enlarged(resize, _fraction(processor))
        elif kind == "Levit" and isinstance(resize, int):
            resize = int(256 / 224 * resize)
        elif kind not in ("ConvNext", "PoolFormer") and processor.get("crop_pct") is not None:
            raise ContractError("`crop_pct` is known of the processors ConvNeXt and PoolFormer alone")
        found["resize"] = resize
    if crop is not None:
        found["crop"] = crop
    return found or None


def _fraction(processor: Mapping[str, Any]) -> float:
    return _number(_needed(processor, "crop_pct"), "`crop_pct`", most=1.0)


def _enlarged(resize: int | list[int], fraction: float) -> int | list[int]:
    """As PoolFormer's processor has it: sides that are equal become the shorter one."""
    if isinstance(resize, int):
        return int(resize / fraction)
    height, width = (int(side / fraction) for side in resize)
    return height if resize[0] == resize[1] else [height, width]


def _resize(size: Any, *, square: bool) -> int | list[int]:
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return _side(size["shortest_edge"])
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return [_side(size["height"]), _side(size["width"])]
    if type(size) is int:  # of before 2022
        return [_side(size), _side(size)] if square else _side(size)
    raise ContractError("`size` of `preprocessor_config.json` must have `height` and `width`, or `shortest_edge`")


def _side(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ContractError("a side in `preprocessor_config.json` must be a whole number over 0")
    return value


def _crop(processor: Mapping[str, Any]) -> list[int]:
    size = _needed(processor, "crop_size")
    if type(size) is int:
        return [_side(size), _side(size)]
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return [_side(size["height"]), _side(size["width"])]
    raise ContractError("`crop_size` of `preprocessor_config.json` must have `height` and `width`")


def _scaled(kind: str, processor: Mapping[str, Any]) -> tuple[list[float] | None, list[float] | None]:
    """Mean and deviation for pixels of [0, 1]: the processor's own are for pixels of 0 to 255 times its factor."""
    factor = 255.0
    if processor.get("do_rescale", True):
        factor *= _number(_needed(processor, "rescale_factor"), "`rescale_factor`")
    shift = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if KINDS[kind].normalises and processor.get("do_normalize", True):
        mean, std = _floats(processor, "image_mean"), _floats(processor, "image_std")
    if kind == "EfficientNet" and _needed(processor, "include_top"):  # divides by the deviation once more
        again = _floats(processor, "image_std")
        if len(again) != len(std):
            std = std * len(again) if len(std) == 1 else std
            again = again * len(std) if len(again) == 1 else again
        std = [one * other for one, other in zip(std, again, strict=False)]
    if math.isclose(factor, 1.0, rel_tol=1e-6) and not shift:
        factor = 1.0
    mean, std = [(value + shift) / factor for value in mean], [value / factor for value in std]
    return (None if mean == [0.0] else mean), (None if std == [1.0] else std)


def _number(value: Any, what: str, *, most: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ContractError(f"{what} must be a number over 0" + (f" and at most {most:g}" if most < 1e6 else ""))
    return float(value)


def _floats(processor: Mapping[str, Any], name: str) -> list[float]:
    """One number, or one for each channel."""
    found = _needed(processor, name)
    values = found if isinstance(found, list) else [found]
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ContractError(f"`{name}` of `preprocessor_config.json` must have a number for each channel")
    return [float(value) for value in values]


def _needed(processor: Mapping[str, Any], name: str) -> Any:
    if processor.get(name) is None:
        raise ContractError(f"`preprocessor_config.json` lacks `{name}`; {SAVE_AGAIN}")
    return processor[name]


# -- both ------------------------------------------------------------------------------------------


def _no_code(config: Mapping[str, Any]) -> None:
    if "auto_map" in config or config.get("custom_pipelines"):
        raise ContractError("the configuration names code of its own (`auto_map`); such code never runs here")


def _contract(geometry: Any, *, channels: Any, mean: Any, std: Any, names: Any, order: str = "rgb") -> InputContract:
    try:
        made = {"geometry": geometry and Geometry.model_validate(geometry), "channels": channels}
        made["channel_order"] = order
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


# -- the network -----------------------------------------------------------------------------------


def with_file(architecture: Any, given: Any) -> Any:
    """A choice of an architecture with what the file in an `input` says of the network, where the choice leaves it out.

    Both as they were sent: what is wrong in them is found by the checks that follow.
    """
    if not isinstance(architecture, dict) or not isinstance(given, dict):
        return architecture
    params, said = architecture.get("params", {}), _said(architecture.get("name"), given)
    if not isinstance(params, dict) or not said:
        return architecture
    own = {name: value for name, value in params.items() if value is not None or name not in said}
    return {**architecture, "params": {**said, **own}}


def timm_pool(config: Mapping[str, Any]) -> Any:
    """The pooling of a timm `config.json`: that of the network's arguments, or the one that it names."""
    args = config.get("model_args")
    return (isinstance(args, dict) and args.get("global_pool")) or config.get("global_pool")


def _said(architecture: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    if architecture == "timm" and isinstance(given.get("timm"), dict) and "pretrained_cfg" in given["timm"]:
        found = {"name": given["timm"].get("architecture"), "global_pool": timm_pool(given["timm"])}
        return {name: value for name, value in found.items() if value}
    if architecture == "hugging_face" and isinstance(given.get("hugging_face"), dict):
        return {"config": given["hugging_face"].get("config")}
    return {}


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
        return InputContract.model_validate({**read, **{name: getattr(self, name) for name in own}})
