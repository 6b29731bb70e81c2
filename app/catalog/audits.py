"""Audits and probes, by name: their parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from app.catalog.base import Entry, Params

MARGIN = Field(0.05, lt=0.5, description="largest |FT-AUC - null| that still passes")


class RmiaParams(Params):
    """RMIA (Zarifzadeh et al. 2024) against reference models that saw a sample and that did not."""

    mode: Literal["online", "offline"] = Field(
        "online", description="offline: only the references that did not see a sample stand for its average"
    )
    offline_a: float = Field(
        0.3, ge=0, le=1, description="offline: the IN mean is taken as a * OUT mean + 1 - a (0.3 for CIFAR-10)"
    )
    signal: Literal["softmax", "taylor"] = Field("taylor", description="how a confidence is read off the logits")
    temperature: PositiveFloat = Field(2.0, le=100)
    taylor_degree: Literal[3, 4] = Field(
        4, description="3 is what the public code computes under the name n = 4; 4 is positive everywhere"
    )
    taylor_margin: NonNegativeFloat = Field(0.6, le=10)
    gamma: PositiveFloat = Field(
        2.0, le=1e6, description="with `taylor_degree` 3 alone; else samples are ordered by their ratio, without ties"
    )
    margin: PositiveFloat = MARGIN


class LiraParams(Params):
    """LiRA (Carlini et al. 2022): likelihood ratio of two Gaussians of a sample's log-odds."""

    signal: Literal["log_odds"] = "log_odds"
    mode: Literal["online", "offline"] = Field(
        "online", description="offline: one-sided tail against the references that did not see the sample"
    )
    spread: Literal["auto", "own", "pooled"] = Field(
        "auto", description="standard deviations of each sample or of all; auto: own from 32 models a side"
    )
    margin: PositiveFloat = MARGIN


class MisParams(Params):
    """MIS, the older attack: an RBF support-vector machine on the true class's confidence."""

    signal: Literal["confidence", "modified_entropy"] = "confidence"
    c: PositiveFloat = Field(3.0, le=1e6, description="the machine's penalty")
    most: PositiveInt = Field(5_000, le=100_000, description="retained and as many unseen samples it learns from")
    seed: int = Field(0, ge=0, lt=2**31, description="of the draw of retained samples")
    margin: PositiveFloat = MARGIN


class RelearnParams(Params):
    """How many steps of fine-tuning on the forget set bring it back?"""

    reaches: Literal["loss", "accuracy"] = "loss"
    target: NonNegativeFloat | None = Field(
        None, le=100, description="where to stop; None: what the parent reaches on the forget set"
    )
    learning_rate: PositiveFloat = Field(0.01, le=10)
    batch_size: PositiveInt = Field(64, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    most_steps: PositiveInt = Field(500, le=100_000)


class RobustParams(Params):
    """Accuracy under a fixed L2 PGD."""

    epsilon: PositiveFloat = Field(0.25, le=100, description="radius, L2, pixels in [0, 1]")
    steps: PositiveInt = Field(10, le=1000)
    step_fraction: PositiveFloat = Field(0.25, le=1, description="step length as a fraction of the radius")
    batch_size: PositiveInt = Field(512, le=65536)


class KnownMethodParams(Params):
    """The attack that knows the method (U-LiRA, Hayes et al. 2024): shadows unlearned by it."""

    shadows: PositiveInt = Field(
        16, ge=4, le=512, multiple_of=2, description="shadow models; each sample is forgotten by half of them"
    )
    spread: Literal["auto", "own", "pooled"] = "auto"


class CompletenessParams(Params):
    """How completely each sample was forgotten (IAM, USENIX Security 2025)."""

    steps: PositiveInt = Field(10, le=1000, description="steps from the models that never saw a sample to the parent")


class MostVulnerableParams(Params):
    """The samples that give themselves away most easily, by their own likelihood (RULI)."""

    share: float = Field(0.1, gt=0, le=1, description="of the forget set: the most vulnerable ones by the references")
    prior: PositiveFloat = Field(
        4.0, le=1000, description="number of models that the variance of all samples counts for (BaVarIA)"
    )


class ResidualParams(Params):
    """Are forgotten samples recognised again after a small change (RURK)?"""

    norm: Literal["l2", "linf"] = "linf"
    radius: PositiveFloat = Field(0.03, le=100, description="of the change, pixels in [0, 1]")
    draws: PositiveInt = Field(20, le=1000, description="random changes of each sample")
    batch_size: PositiveInt = Field(512, le=65536)


class TwoVersionsParams(Params):
    """The attack that holds the version before and the version after."""


class NeighboursParams(Params):
    """MIA-NN: what a forgotten class's samples are taken for instead."""

    least_share: float = Field(0.8, gt=0, le=1, description="of a class's trained samples that the forget set has")


AUDITS: dict[str, Entry] = {
    "rmia": Entry(
        "RMIA membership inference against a pool of reference models", RmiaParams, "engine.audits.measure:audit"
    ),
    "lira": Entry(
        "LiRA membership inference against the same pool, as a cross-check", LiraParams, "engine.audits.measure:audit"
    ),
    "mis": Entry(
        "The confidence itself, and the share a support-vector machine takes for unseen",
        MisParams,
        "engine.audits.measure:audit",
    ),
}


PROBES: dict[str, Entry] = {
    "relearn": Entry(
        "Steps of fine-tuning until the forget set is back",
        RelearnParams,
        "engine.audits.probes:relearning",
        {"most_steps": 2},
    ),
    "robust_accuracy": Entry(
        "Accuracy under a fixed L2 PGD", RobustParams, "engine.audits.probes:robust_accuracy", {"steps": 2}
    ),
    "known_method": Entry(
        "Shadow models unlearned by the same method",
        KnownMethodParams,
        "engine.audits.probes:known_method",
        {"shadows": 4},
    ),
    "completeness": Entry(
        "How completely each sample was forgotten, beside an exact retrain",
        CompletenessParams,
        "engine.audits.probes:complete",
    ),
    "most_vulnerable": Entry(
        "Share of the most vulnerable samples that still look trained on, beside an exact retrain",
        MostVulnerableParams,
        "engine.audits.probes:most_vulnerable",
    ),
    "residual_knowledge": Entry(
        "Share of the samples recognised again after a small change, beside an exact retrain",
        ResidualParams,
        "engine.audits.probes:residual_knowledge",
        {"draws": 2},
    ),
    "two_versions": Entry(
        "AUC of an attacker who holds the version before as well, beside an exact retrain",
        TwoVersionsParams,
        "engine.audits.probes:two_versions",
    ),
    "neighbours": Entry(
        "AUC of what a forgotten class's samples are taken for instead (MIA-NN), beside an exact retrain",
        NeighboursParams,
        "engine.audits.probes:neighbours",
    ),
}
