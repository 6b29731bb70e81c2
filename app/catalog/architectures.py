"""Architectures, by name: their parameters."""

from __future__ import annotations

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)

from app.catalog.base import TORCHVISION_MODEL, Entry, Params


class SmallCnnParams(Params):
    """Three 3x3 convolutions with batch norm, global pooling, a linear head: membership shows on a CPU."""

    width: PositiveInt = Field(16, le=512)


class ResNet18Params(Params):
    """CIFAR ResNet-18: 3x3 stem, no max-pool, stages of 2 blocks."""

    width: PositiveInt = Field(64, le=512, description="channels of the first stage")
    halve_projected: bool = Field(
        True, description="divide (main + shortcut) by 2 in blocks with a projection, as the AMUN code does"
    )


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

    Pixels come as they are, in [0, 1]: torchvision's published weights want them normalised. Grey images are
    repeated to three channels. What cannot take the dataset's images is refused by the worker, with the reason.
    """

    name: str = Field("resnet18", pattern=TORCHVISION_MODEL, description="as `torchvision.models` lists it")


ARCHITECTURES: dict[str, Entry] = {
    "small_cnn": Entry(
        "A small convolutional network for CPUs", SmallCnnParams, "engine.architectures.small_cnn:build", {"width": 4}
    ),
    "resnet18": Entry(
        "ResNet-18 for 32x32 images", ResNet18Params, "engine.architectures.resnet18:build", {"width": 4}
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
}
