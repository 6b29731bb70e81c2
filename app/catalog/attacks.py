"""Attacks, by name: their parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from app.catalog.base import Entry, Params


class PgdL2Params(Params):
    """Algorithm 1 of the AMUN paper: L2 PGD inside a radius that doubles until the label flips."""

    steps: PositiveInt = Field(50, le=1000, description="gradient steps at each radius")
    epsilon: PositiveFloat = Field(0.04, le=100, description="first radius, L2, pixels in [0, 1]")
    step_fraction: PositiveFloat = Field(0.1, le=1, description="step length as a fraction of the radius")
    max_doublings: PositiveInt = Field(12, le=30, description="how often the radius may double")
    batch_size: PositiveInt = Field(512, le=65536)

    @property
    def passes(self) -> tuple[int, int]:
        """How often an image goes through the model, usually and at most: searches of two radii, or of all."""
        return 2 * (self.steps + 1) + 2, (self.max_doublings + 1) * (self.steps + 1) + 2


class FastMinNormParams(Params):
    """A linearised jump to the boundary, then steps on a shrinking sphere: the nearest mislabelled image."""

    steps: PositiveInt = Field(10, le=1000, description="gradient steps a round, the jumps among them")
    search: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of the search; auto: bfloat16 on CUDA, where convolutions gain by it"
    )
    finish_steps: PositiveInt = Field(
        3, le=1000, description="float32 steps that follow a search in bfloat16; none without one"
    )
    shrink: PositiveFloat = Field(0.1, lt=1, description="first change of the sphere's radius; falls to a tenth")
    turn: PositiveFloat = Field(0.3, le=1, description="share of the new normal in the direction on the sphere")
    overshoot: NonNegativeFloat = Field(0.02, le=10, description="how far a jump goes past the boundary")
    rounds: PositiveInt = Field(5, le=30, description="each for the rows not found so far, four times as bold")
    batch_size: PositiveInt = Field(512, le=65536)

    @property
    def passes(self) -> tuple[int, int]:
        """How often an image goes through the model, usually and at most: one round, or all of them."""
        one = self.steps + self.finish_steps + 2
        return one + 1, self.rounds * one + 1


class FfgsmParams(Params):
    """Steps along the sign of one gradient with random restarts (AMUN, table 9); defaults are ours."""

    step: PositiveFloat = Field(1 / 255, le=1, description="L-infinity length of a step, pixels in [0, 1]")
    steps: PositiveInt = Field(16, le=1000, description="steps along one sign")
    noise: NonNegativeFloat = Field(2 / 255, le=1, description="a restart begins within this of the image")
    starts: PositiveInt = Field(10, le=1000)
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise")
    batch_size: PositiveInt = Field(512, le=65536)

    @property
    def passes(self) -> tuple[int, int]:
        """How often an image goes through the model, usually and at most: one start, or all of them."""
        return self.steps + 3, self.starts * (self.steps + 1) + 2


class TransferParams(Params):
    """The adversarial set of another version: its inputs with its labels (AMUN, table 8)."""

    version: PositiveInt | None = Field(None, description="whose set to use; None: the newest other one that has one")
    keep: Literal["all", "fooling"] = Field(
        "all", description="all of its examples, as in the paper, or those that fool this model too"
    )
    batch_size: PositiveInt = Field(512, le=65536)


ATTACKS: dict[str, Entry] = {
    "pgd_l2": Entry(
        "L2 PGD with a radius that doubles until the label flips (AMUN, Algorithm 1)",
        PgdL2Params,
        "engine.attacks.pgd_l2:pgd_l2",
        {"steps": 4},
    ),
    "fast_min_norm": Entry(
        "The nearest mislabelled image, at a fraction of the cost of pgd_l2",
        FastMinNormParams,
        "engine.attacks.fast_min_norm:fast_min_norm",
        {"steps": 4, "rounds": 1},
    ),
    "ffgsm": Entry(
        "The weak attack: along the sign of one gradient, with restarts",
        FfgsmParams,
        "engine.attacks.ffgsm:ffgsm",
        {"starts": 1},
    ),
    "transfer": Entry(
        "Another version's adversarial set: nothing is searched",
        TransferParams,
        "engine.attacks.transfer:transfer",
        needs_given=True,
    ),
}
