"""The catalog: every method, attack, audit, architecture, recipe and source by name, without torch.

A name maps to an `Entry`: the pydantic model of its parameters and facts about it that policy checks
need. `worker/registry.py` binds the same names to functions; a test holds both to the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class Params(BaseModel):
    """Base of all parameter models: unknown keys are refused, defaults are filled in, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# -- methods ---------------------------------------------------------------------------------------


class FineTuneSchedule(Params):
    """How a method walks its fine-tuning set (SGD; AMUN paper, section 5.1 and appendix)."""

    epochs: PositiveInt = Field(10, le=1000)
    learning_rate: PositiveFloat = Field(0.01, le=10)
    batch_size: PositiveInt = Field(128, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    decay_every: PositiveInt | None = Field(None, description="multiply the rate by 0.1 every so many epochs")


class AmunParams(FineTuneSchedule):
    """AMUN: fine-tune on D_A, with the clean forget samples or without them (paper, section 4)."""

    fine_tuning_set: Literal["forget_and_adversarial", "adversarial_only"] = Field(
        "forget_and_adversarial",
        description="whether the clean forget samples stay in the fine-tuning set beside their adversarial "
        "examples; the remain set joins either when the policy gives access to it",
    )


class RetrainParams(Params):
    """Exact retraining on the remain set, with the model's own recipe."""


# -- attacks ---------------------------------------------------------------------------------------


class PgdL2Params(Params):
    """Algorithm 1 of the AMUN paper: L2 PGD inside a radius that doubles until the label flips."""

    steps: PositiveInt = Field(50, le=1000, description="gradient steps at each radius")
    epsilon: PositiveFloat = Field(0.04, le=100, description="first radius, L2, pixels in [0, 1]")
    step_fraction: PositiveFloat = Field(0.1, le=1, description="step length as a fraction of the radius")
    max_doublings: PositiveInt = Field(12, le=30, description="how often the radius may double")
    batch_size: PositiveInt = Field(512, le=65536)


# -- audits ----------------------------------------------------------------------------------------


class RmiaParams(Params):
    """RMIA (Zarifzadeh et al. 2024), online: reference models that saw a sample and that did not."""

    signal: Literal["softmax", "taylor"] = Field("taylor", description="how a confidence is read off the logits")
    temperature: PositiveFloat = Field(2.0, le=100)
    taylor_degree: Literal[3, 4] = Field(
        4, description="3 is what the public code computes under the name n = 4; 4 is positive everywhere"
    )
    taylor_margin: NonNegativeFloat = Field(0.6, le=10)
    gamma: PositiveFloat = Field(2.0, le=1e6)
    margin: PositiveFloat = Field(0.05, lt=0.5, description="largest |FT-AUC - null| that still passes")


# -- architectures ---------------------------------------------------------------------------------


class SmallCnnParams(Params):
    """Three 3x3 convolutions with batch norm, global pooling, a linear head: membership shows on a CPU."""

    width: PositiveInt = Field(16, le=512)


class ResNet18Params(Params):
    """CIFAR ResNet-18: 3x3 stem, no max-pool, stages of 2 blocks."""

    width: PositiveInt = Field(64, le=512, description="channels of the first stage")
    halve_projected: bool = Field(
        True, description="divide (main + shortcut) by 2 in blocks with a projection, as the AMUN code does"
    )


# -- recipes ---------------------------------------------------------------------------------------


class SgdRecipe(Params):
    """Plain SGD from random weights."""

    epochs: PositiveInt = Field(30, le=10000)
    learning_rate: PositiveFloat = Field(0.1, le=10)
    batch_size: PositiveInt = Field(64, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    schedule: Literal["cosine", "step"] = "cosine"
    step_every: PositiveInt = Field(40, description="with schedule `step`: multiply the rate by 0.1 so often")
    augment: Literal["none", "crop_flip"] = "none"


# -- sources ---------------------------------------------------------------------------------------


class DigitsSource(Params):
    """The 1,797 digits of 8x8 pixels that ship with scikit-learn, with fixed Gaussian pixel noise.

    Plain digits hide membership (RT-AUC 0.60); with noise 0.3 it shows (0.75 at 87 % test accuracy).
    """

    noise: NonNegativeFloat = Field(0.3, le=2, description="standard deviation, pixels in [0, 1], then clipped")
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise and of the train / holdout halves")


class TorchvisionSource(Params):
    """Any classification set that `torchvision.datasets` can download or make, by class name."""

    dataset: str = Field("CIFAR10", pattern=r"^[A-Za-z0-9]{2,40}$")
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="further keyword arguments of the dataset class, e.g. size of FakeData",
    )


class UploadSource(Params):
    """Bytes sent by `PUT /v1/datasets/{dataset}/content`: Parquet with `id`, `image`, `label` and, optionally,
    `split` (train or holdout; absent: see `holdout_fraction`)."""

    holdout_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the samples kept as never-trained controls when no split is sent",
    )
    seed: int = Field(0, ge=0, lt=2**31)


# -- the tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One name of the catalog."""

    summary: str
    params: type[Params]
    needs_remain: bool = False
    needs_adversarial: bool = False
    exact: bool = False  # forgets by construction: its provenance is the proof, the audit only reports


METHODS: Mapping[str, Entry] = {
    "amun": Entry(
        "AMUN: fine-tune on each forget sample's nearest adversarial example with its wrong label",
        AmunParams,
        needs_adversarial=True,
    ),
    "retrain": Entry("Exact retraining without the forget set", RetrainParams, needs_remain=True, exact=True),
}

ATTACKS: Mapping[str, Entry] = {
    "pgd_l2": Entry("L2 PGD with a radius that doubles until the label flips (AMUN, Algorithm 1)", PgdL2Params),
}

AUDITS: Mapping[str, Entry] = {
    "rmia": Entry("RMIA membership inference, online, against a pool of reference models", RmiaParams),
}

ARCHITECTURES: Mapping[str, Entry] = {
    "small_cnn": Entry("A small convolutional network for CPUs", SmallCnnParams),
    "resnet18": Entry("ResNet-18 for 32x32 images", ResNet18Params),
}

RECIPES: Mapping[str, Entry] = {
    "sgd": Entry("SGD with momentum", SgdRecipe),
}

SOURCES: Mapping[str, Entry] = {
    "digits": Entry("scikit-learn's digits, noisy; needs no network", DigitsSource),
    "torchvision": Entry("a torchvision classification set, downloaded by the worker", TorchvisionSource),
    "upload": Entry("bytes that the client streams in", UploadSource),
}

KINDS: Mapping[str, Mapping[str, Entry]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "audits": AUDITS,
    "architectures": ARCHITECTURES,
    "recipes": RECIPES,
    "sources": SOURCES,
}


def parse(kind: str, name: str, params: Mapping[str, Any]) -> Params:
    """Return the typed parameters of entry `name` of `kind`, defaults filled in.

    Raises:
        KeyError: `name` is not in that table.
        pydantic.ValidationError: the parameters do not fit its schema.
    """
    return KINDS[kind][name].params.model_validate(dict(params))
