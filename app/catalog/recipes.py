"""Training recipes, by name: their parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from app.catalog.base import Entry, Params

Precision = Literal["float32", "bfloat16"]


class SgdRecipe(Params):
    """Plain SGD from random weights."""

    epochs: PositiveInt = Field(30, le=10000)
    learning_rate: PositiveFloat = Field(0.1, le=10)
    batch_size: PositiveInt = Field(64, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    schedule: Literal["cosine", "step"] = "cosine"
    step_every: PositiveInt = Field(
        40, le=10000, description="with schedule `step`: epochs after which the rate falls to a tenth"
    )
    augment: Literal["none", "crop_flip"] = "none"
    # Left out where it has its default, so that a pool of references made before the field still fits its recipe.
    precision: Precision = Field(
        "float32",
        exclude_if=lambda value: value == "float32",
        description="of training and of fine-tuning; bfloat16 (autocast, weights stay float32) pays on GPUs and on "
        "CPUs that multiply it in hardware",
    )


class TradesRecipe(SgdRecipe):
    """TRADES (Zhang et al. 2019): cross-entropy plus beta KL(p(x) | p(x')), x' the worst image near x."""

    epochs: PositiveInt = Field(76, le=10000)
    batch_size: PositiveInt = Field(128, le=65536)
    weight_decay: NonNegativeFloat = Field(2e-4, lt=1)
    schedule: Literal["cosine", "step"] = "step"
    step_every: PositiveInt = Field(
        75, le=10000, description="with schedule `step`: epochs after which the rate falls to a tenth"
    )
    augment: Literal["none", "crop_flip"] = "crop_flip"
    beta: NonNegativeFloat = Field(6.0, le=1000)
    norm: Literal["linf", "l2"] = "linf"
    epsilon: PositiveFloat = Field(0.031, le=100, description="how far x' may be from x in `norm`, pixels in [0, 1]")
    step: PositiveFloat = Field(0.007, le=1, description="length of a step with `linf`; with `l2` it is 2 epsilon / K")
    steps: PositiveInt = Field(10, le=1000, description="K, gradient steps towards x'")
    noise: NonNegativeFloat = Field(0.001, le=1, description="standard deviation of where the search starts")


class SpectralClippingRecipe(SgdRecipe):
    """SGD that clips the operator norm of every convolution and linear layer (FastClip, 2024).

    The norm is that of the layer as a linear map on inputs of their actual size, without its bias. BatchNorm and
    sums of branches are not bounded: c bounds the layers, not the whole network.
    """

    bound: PositiveFloat = Field(1.0, le=1000, description="c, the largest norm of a layer")
    every: PositiveInt = Field(50, le=100_000, description="steps of the optimizer between two clips")
    clip_steps: PositiveInt = Field(5, le=1000, description="gradient steps of one clip")


class FastRecipe(Params):
    """SGD in few epochs of large batches: the rate rises to its peak and falls to zero in straight lines."""

    epochs: PositiveInt = Field(16, le=10000)
    learning_rate: PositiveFloat = Field(0.2, le=10, description="at the peak")
    batch_size: PositiveInt = Field(128, le=65536)
    momentum: PositiveFloat = Field(0.9, lt=1, description="Nesterov's")
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    peak: PositiveFloat = Field(0.25, lt=1, description="where the rate is highest, as a fraction of the epochs")
    augment: Literal["none", "crop_flip"] = "none"
    precision: Precision = Field("bfloat16", description="float32 for CPUs that do not multiply bfloat16 in hardware")


Augmentation = Literal["none", "crop_flip", "flip", "resized_crop_flip", "strong"]


class FineTunedRecipe(Params):
    """AdamW or SGD with a warm-up and a cosine, from the model's `base`; without one, from random weights."""

    epochs: PositiveInt = Field(10, le=10000)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = Field(1e-3, le=10, description="after the warm-up")
    batch_size: PositiveInt = Field(64, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1, description="of SGD")
    weight_decay: NonNegativeFloat = Field(0.05, lt=1, description="with AdamW not of biases and norms")
    warmup_epochs: NonNegativeFloat = Field(1.0, le=1000, description="less than `epochs`")
    layer_decay: PositiveFloat = Field(
        1.0, le=1, description="factor on the rate of each block of layers, for each block between it and the head"
    )
    label_smoothing: NonNegativeFloat = Field(0.0, lt=1)
    augment: Augmentation = Field(
        "none",
        description="`crop_flip` pads by 4; `resized_crop_flip` and `flip` as torchvision's; `strong` adds colour "
        "jitter and erased rectangles",
    )
    frozen_backbone: bool = Field(False, description="train the head alone, and unlearn in it alone")
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _warm_in_time(self) -> FineTunedRecipe:
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        return self


class LinearProbeRecipe(Params):
    """A linear head on features of the model's `base`, which are computed once; unlearning changes the head alone."""

    epochs: PositiveInt = Field(50, le=10000)
    learning_rate: PositiveFloat = Field(0.01, le=10)
    batch_size: PositiveInt = Field(256, le=65536)
    weight_decay: NonNegativeFloat = Field(0.0, lt=1)


QUICK = {"epochs": 1, "batch_size": 32}

RECIPES: dict[str, Entry] = {
    "sgd": Entry("SGD with momentum", SgdRecipe, "engine.recipes.sgd:sgd", QUICK),
    "fast": Entry("SGD in few epochs of large batches", FastRecipe, "engine.recipes.sgd:fast", QUICK),
    "trades": Entry(
        "Adversarial training by TRADES", TradesRecipe, "engine.recipes.trades:trades", {**QUICK, "steps": 2}
    ),
    "spectral_clipping": Entry(
        "SGD with every layer's operator norm clipped",
        SpectralClippingRecipe,
        "engine.recipes.spectral_clipping:spectral_clipping",
        {**QUICK, "every": 2},
    ),
    "fine_tuned": Entry(
        "AdamW or SGD with warm-up and cosine, from a base checkpoint",
        FineTunedRecipe,
        "engine.recipes.fine_tuned:fine_tuned",
        {**QUICK, "warmup_epochs": 0.5, "layer_decay": 0.8},
    ),
    "linear_probe": Entry(
        "A linear head on features of a base checkpoint, computed once",
        LinearProbeRecipe,
        "engine.recipes.fine_tuned:linear_probe",
        QUICK,
    ),
}
