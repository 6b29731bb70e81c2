"""Architectures, by name: their parameters."""

from __future__ import annotations

import json
from typing import Any

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from app.catalog import names
from app.catalog.base import POOLING, Entry, Params

MOST_CONFIG_BYTES = 2**18
MOST_OF_ANYTHING = 100_000  # a width, say: a worker would build it before it could refuse it
MOST_LAYERS = 1000
NOT_OF_THE_NETWORK = (
    "id2label", "label2id", "num_labels", "auto_map", "architectures", "_name_or_path", "transformers_version",
    "dtype", "torch_dtype", "return_dict", "output_attentions", "output_hidden_states", "torchscript",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "gradient_checkpointing",
    "use_return_dict",
)  # fmt: skip
"""Members of a `config.json` that the dataset's classes take the place of, or that say how the network is stored and
run, not what it is: here it is trained in float32 and answers with logits."""


class SmallCnnParams(Params):
    """Three 3x3 convolutions with batch norm, global pooling, a linear head: membership shows on a CPU."""

    width: PositiveInt = Field(16, le=512)


class ResNet18Params(Params):
    """CIFAR ResNet-18: 3x3 stem, no max-pool, stages of 2 blocks."""

    width: PositiveInt = Field(64, le=512, description="channels of the first stage")
    halve_projected: bool = Field(
        True, description="divide (main + shortcut) by 2 in blocks with a projection, as the AMUN code does"
    )


class AirbenchParams(Params):
    """Seven convolutions with GELU, after airbench (Jordan 2024): for whole data sets on a CPU."""

    width: PositiveInt = Field(64, le=512, description="channels of the first group; the others have 4 w")


class Vgg19Params(Params):
    """VGG19 with batch norm: sixteen 3x3 convolutions in five pooled stages, a linear head."""

    width: PositiveInt = Field(64, le=512, description="channels of the first stage; later ones have 2, 4, 8 and 8 w")


class VitParams(Params):
    """A small vision transformer, pre-norm, with mean pooling (Beyer et al. 2022) and learned positions."""

    patch: PositiveInt = Field(4, le=64, description="side of a patch in pixels; it must divide both sides of an image")
    width: PositiveInt = Field(192, le=2048, description="of a token; a multiple of `heads`")
    depth: PositiveInt = Field(6, le=48)
    heads: PositiveInt = Field(3, le=64)
    dropout: NonNegativeFloat = Field(0.0, lt=1, description="in each block, while training")

    @model_validator(mode="after")
    def _divides(self) -> VitParams:
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        return self


class TorchvisionParams(Params):
    """A classifier of `torchvision.models`, from random weights; its checkpoints have torchvision's own names.

    Grey images are repeated to three channels. What cannot take the images is refused by the worker, with the reason.
    """

    name: str = Field("resnet18", max_length=60, description="as `torchvision.models` lists it")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in names.TORCHVISION:
            raise ValueError("torchvision has no classifier of this name")
        return name


class TimmParams(Params):
    """A classifier of timm by name, from random weights (`pretrained=False`); its checkpoints have timm's own names."""

    name: str = Field("resnet18", max_length=100, description="as `timm.list_models()` lists it, without a tag")
    global_pool: str | None = Field(
        None,
        pattern=POOLING,
        exclude_if=lambda value: value is None,
        description="as its `config.json` says it, such as `avg` or `token`; null: the model's own",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in names.timm():
            raise ValueError("timm has no model of this name; send the name before the dot, without a tag")
        return name


class HuggingFaceParams(Params):
    """An image classifier of transformers, from random weights; its checkpoints have the names that the library writes.

    The number of classes is the dataset's. Code that a configuration names never runs.
    """

    config: dict[str, Any] = Field({"model_type": "resnet"}, description="`config.json`, as the library saved it")

    @field_validator("config")
    @classmethod
    def _of_an_image_classifier(cls, config: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(json.dumps(config, allow_nan=False))
        except (ValueError, RecursionError):
            raise ValueError("the configuration is no JSON") from None
        if size > MOST_CONFIG_BYTES:
            raise ValueError(f"the configuration has more than {MOST_CONFIG_BYTES // 1024} KiB")
        if names_code(config):
            raise ValueError("the configuration names code of its own (`auto_map`); such code never runs here")
        if config.get("quantization_config") is not None:
            raise ValueError(
                "the configuration is of quantized weights (`quantization_config`), which cannot be trained"
            )
        if (most := largest(config)) > MOST_OF_ANYTHING:
            raise ValueError(f"the configuration has the number {most}; at most {MOST_OF_ANYTHING} is taken")
        layers = [value for name, value in config.items() if "layers" in name and isinstance(value, int)]
        depths = config.get("depths")
        layers += [value for value in (depths if isinstance(depths, list) else []) if isinstance(value, int)]
        if any(value > MOST_LAYERS for value in layers):
            raise ValueError(f"the configuration has more than {MOST_LAYERS} layers")
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in names.HUGGING_FACE:
            raise ValueError("its `model_type` is not one of an image classifier that is known here")
        built = config.get("architectures")
        if built is not None and not (
            isinstance(built, list) and any("ForImageClassification" in str(each) for each in built)
        ):
            raise ValueError("it is of another task: `architectures` names no image classifier")
        return config

    def classifier(self) -> str | None:
        """The class that the file names, where it is not the usual one of its `model_type`."""
        built = [name for name in self.config.get("architectures") or () if "ForImageClassification" in str(name)]
        return next((str(name) for name in built if not str(name).endswith("ForImageClassification")), None)

    def network(self) -> dict[str, Any]:
        """The members of `config` that say what the network is, whichever classes it has."""
        return {name: value for name, value in self.config.items() if name not in NOT_OF_THE_NETWORK}

    def identity(self) -> Any:
        return self.network(), self.classifier()


def names_code(document: Any) -> bool:
    """Whether a configuration, or one inside it, names code."""
    if isinstance(document, dict):
        return any(document.get(name) for name in ("auto_map", "custom_pipelines")) or any(
            names_code(value) for value in document.values()
        )
    return isinstance(document, list) and any(names_code(value) for value in document)


def largest(document: Any) -> float:
    """The largest number in it, by its size."""
    if isinstance(document, dict | list):
        values = document.values() if isinstance(document, dict) else document
        return max((largest(value) for value in values), default=0)
    return abs(document) if isinstance(document, int | float) else 0


ARCHITECTURES: dict[str, Entry] = {
    "small_cnn": Entry(
        "A small convolutional network for CPUs", SmallCnnParams, "engine.architectures.small_cnn:build", {"width": 4}
    ),
    "resnet18": Entry(
        "ResNet-18 for 32x32 images", ResNet18Params, "engine.architectures.resnet18:build", {"width": 4}
    ),
    "airbench": Entry(
        "A fast convolutional network for 32x32 images",
        AirbenchParams,
        "engine.architectures.airbench:build",
        {"width": 4},
    ),
    "vgg19_bn": Entry(
        "VGG19 with batch norm for images of 8 to 64 pixels",
        Vgg19Params,
        "engine.architectures.vgg19_bn:build",
        {"width": 4},
    ),
    "vit": Entry(
        "A small vision transformer",
        VitParams,
        "engine.architectures.vit:build",
        {"patch": 4, "width": 16, "depth": 1, "heads": 2},
    ),
    "torchvision": Entry(
        "Any classifier of torchvision by name, untrained",
        TorchvisionParams,
        "engine.architectures.torchvision_model:build",
        {"name": "shufflenet_v2_x0_5"},
    ),
    "timm": Entry(
        "Any classifier of timm by name, untrained",
        TimmParams,
        "engine.architectures.timm_model:build",
        {"name": "test_resnet"},
        module="timm",
    ),
    "hugging_face": Entry(
        "An image classifier of transformers from its config.json, untrained",
        HuggingFaceParams,
        "engine.architectures.hugging_face:build",
        {
            "config": {
                "model_type": "resnet",
                "embedding_size": 4,
                "hidden_sizes": [4, 8],
                "depths": [1, 1],
                "layer_type": "basic",
            }
        },
        module="transformers",
    ),
}
