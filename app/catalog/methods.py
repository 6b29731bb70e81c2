"""Unlearning methods, by name: their parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from app.catalog.base import Entry, Params


class FineTuneSchedule(Params):
    """How a method goes through its fine-tuning set (SGD; AMUN paper, section 5.1 and appendix)."""

    epochs: PositiveInt = Field(10, le=1000)
    learning_rate: PositiveFloat = Field(0.01, le=10)
    batch_size: PositiveInt = Field(128, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    decay_every: PositiveInt | None = Field(None, le=1000, description="epochs after which the rate falls to a tenth")


class AmunParams(FineTuneSchedule):
    """AMUN: fine-tune on D_A, with the clean forget samples or without them (paper, section 4)."""

    fine_tuning_set: Literal["forget_and_adversarial", "adversarial_only"] = Field(
        "forget_and_adversarial",
        description="whether the clean forget samples stay in the fine-tuning set beside their adversarial "
        "examples; the remain set joins either when the policy gives access to it",
    )


class FineTuneParams(FineTuneSchedule):
    """FT: plain fine-tuning on the remain set."""


class L1SparseParams(FineTuneSchedule):
    """l1-sparse (Jia et al., NeurIPS 2023): FT with a penalty on the l1 norm that decays to zero."""

    alpha: PositiveFloat = Field(
        5e-4, le=1, description="strength of the penalty in the first epoch; it falls as 1 - epoch / epochs"
    )


class RandomLabelParams(FineTuneSchedule):
    """RL: fine-tune on the forget set under wrong labels drawn again at each visit, beside the remain set."""


class SalunParams(RandomLabelParams):
    """SalUn (Fan et al., ICLR 2024): RL on the weights that are salient for the forget set."""

    learning_rate: PositiveFloat = Field(0.013, le=10)
    mask_ratio: PositiveFloat = Field(0.5, le=1, description="share of all weights that may be trained")


class AmunSalunParams(AmunParams):
    """AMUN on the weights that are salient for the forget set."""

    mask_ratio: PositiveFloat = Field(0.5, le=1, description="share of all weights that may be trained")


class GradientAscentParams(FineTuneSchedule):
    """GA: ascent on the forget set, after a pass of descent on the remain set where there is one."""

    learning_rate: PositiveFloat = Field(1e-4, le=10, description="of the ascent and of the descent")


class BoundaryShrinkParams(FineTuneSchedule):
    """BS (Chen et al., CVPR 2023): fine-tune the forget set on its nearest wrong labels."""

    step: PositiveFloat = Field(
        0.1, le=1, description="L-infinity length of the signed-gradient step that finds the label"
    )


class MixUnlearnParams(FineTuneSchedule):
    """In the style of MixUnlearn (ICLR 2025); what its paper and code leave open has a default of our own.

    An epoch is one pass over the forget set, with as many samples drawn from the remain set.
    """

    batch_size: PositiveInt = Field(
        32, le=4096, description="forget samples a step, and remain samples; dense pairing blends its square"
    )
    targets: Literal["labels", "predictions"] = Field(
        "labels",
        description="label-aware: one-hot labels; label-agnostic: sharpened predictions of the given model",
    )
    sharpening: PositiveFloat = Field(0.3, le=10, description="temperature T of sharpened predictions, p^(1/T)")
    pairing: Literal["dense", "diagonal"] = Field(
        "dense", description="blend every forget sample of a batch with every remain sample, or one with one"
    )
    mixing_alpha: PositiveFloat = Field(0.75, le=100, description="lambda is drawn from Beta(alpha, alpha)")
    temperature_mix: PositiveFloat = Field(
        4.0,
        le=100,
        description="tau of the unlearner's loss on blends: the pull to remain targets is tau times as strong as "
        "the push from forget targets; at 1 both are equal and random forget sets ruin the model",
    )
    temperature_generator: PositiveFloat = Field(4.0, le=100, description="tau of the generator's loss")
    temperature_real: PositiveFloat = Field(4.0, le=100, description="tau of the loss on real samples")
    real_weight: NonNegativeFloat = Field(1.0, le=1000, description="weight omega of the loss on real samples")
    generator_every: PositiveInt = Field(2, le=1000, description="K: unlearner steps per generator step")
    generator_learning_rate: PositiveFloat = Field(0.01, le=10)
    generator_ema: NonNegativeFloat = Field(
        0.999, lt=1, description="decay of the averaged unlearner that judges the generator; 0: the unlearner"
    )
    generator_width: PositiveInt = Field(64, le=1024, description="channels of queries and keys")
    feature_layer: PositiveInt = Field(
        1, le=1000, description="which convolution of the given model shows the generator its features, from 1"
    )
    mask_grid: PositiveInt = Field(8, le=64, description="most rows and columns of the pooled features")


class CertifiedNewtonParams(Params):
    """One damped Newton step to the optimum on the remain set, then Gaussian noise (Zhang et al., ICML 2024).

    No certificate: that needs a proven bound on the distance to the retrained weights, which a deep network
    does not have. `noise` is a standard deviation and nothing more.
    """

    solver: Literal["lissa", "conjugate_gradient"] = Field(
        "lissa",
        description="lissa: stochastic, bears mild negative curvature; conjugate_gradient: refuses any",
    )
    damping: PositiveFloat = Field(0.01, le=1e6, description="gamma, added to the Hessian's diagonal")
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1, description="of the objective that the model was trained on")
    noise: NonNegativeFloat = Field(0.001, le=10, description="sigma of each weight's Gaussian noise; 0: none")
    batch_size: PositiveInt = Field(512, le=65536, description="of passes over the whole remain set")
    lissa_batch_size: PositiveInt = Field(10, le=65536, description="samples of each stochastic Hessian")
    lissa_scale: PositiveFloat = Field(1000.0, le=1e9, description="s, above half of the largest curvature")
    lissa_steps: PositiveInt = Field(1000, le=1_000_000, description="s_2, length of a chain")
    lissa_chains: PositiveInt = Field(10, le=1000, description="s_1, chains averaged")
    cg_iterations: PositiveInt = Field(50, le=100_000, description="each is a pass over the remain set")
    cg_tolerance: PositiveFloat = Field(1e-4, lt=1, description="residual, as a fraction of the gradient")


class NegGradParams(FineTuneSchedule):
    """NegGrad+ (Kurmanji et al., NeurIPS 2023), with the order of RUM (Zhao et al., NeurIPS 2024)."""

    learning_rate: PositiveFloat = Field(0.02, le=10)
    beta: PositiveFloat = Field(
        0.95, lt=1, description="share of the descent on the remain set; the rest is ascent on the forget set"
    )
    ceiling: PositiveFloat = Field(
        6.0, le=100, description="cross-entropy beyond which a forget sample is pushed no further"
    )
    parts: PositiveInt = Field(
        2, le=16, description="by difficulty: the forget set is cut into as many, and unlearned the easy ones first"
    )


class ReferenceGuidedParams(FineTuneSchedule):
    """In the style of ReGUn (arXiv 2603.11210): forget samples learn to look like held-out ones of their class."""

    learning_rate: PositiveFloat = Field(0.05, le=10)
    weight: PositiveFloat = Field(1.0, le=1000, description="of a forget sample's divergence beside a remain sample's")
    temperature: PositiveFloat = Field(1.0, le=100, description="of the answers to held-out samples")


class RetrainParams(Params):
    """Exact retraining on the remain set, with the model's own recipe."""


QUICK = {"epochs": 1, "batch_size": 32}

METHODS: dict[str, Entry] = {
    "amun": Entry(
        "AMUN: fine-tune on each forget sample's nearest adversarial example with its wrong label",
        AmunParams,
        "engine.methods.amun:amun",
        QUICK,
        "AMUN",
        {"AMUN, no D_F": {"fine_tuning_set": "adversarial_only"}},
        needs_adversarial=True,
    ),
    "amun_salun": Entry(
        "AMUN on the weights that are salient for the forget set alone",
        AmunSalunParams,
        "engine.methods.amun:amun_salun",
        QUICK,
        "AMUN+SalUn",
        needs_adversarial=True,
    ),
    "salun": Entry(
        "SalUn: RL on the weights that are salient for the forget set alone",
        SalunParams,
        "engine.methods.random_label:salun",
        QUICK,
        "SalUn",
    ),
    "random_label": Entry(
        "RL: fine-tune the forget set on random wrong labels",
        RandomLabelParams,
        "engine.methods.random_label:random_label",
        QUICK,
        "RL",
    ),
    "fine_tune": Entry(
        "FT: fine-tune on the remain set",
        FineTuneParams,
        "engine.methods.fine_tune:fine_tune",
        QUICK,
        "FT",
        needs_remain=True,
    ),
    "gradient_ascent": Entry(
        "GA: raise the loss on the forget set",
        GradientAscentParams,
        "engine.methods.gradient_ascent:gradient_ascent",
        QUICK,
        "GA",
    ),
    "boundary_shrink": Entry(
        "BS: fine-tune the forget set on the labels of the nearest other class",
        BoundaryShrinkParams,
        "engine.methods.boundary_shrink:boundary_shrink",
        QUICK,
        "BS",
    ),
    "l1_sparse": Entry(
        "FT with a decaying penalty on the l1 norm of the weights",
        L1SparseParams,
        "engine.methods.fine_tune:l1_sparse",
        QUICK,
        "l1-sparse",
        needs_remain=True,
    ),
    "mixunlearn": Entry(
        "In the style of MixUnlearn: contrastive unlearning against a generator of forget/remain blends",
        MixUnlearnParams,
        "engine.methods.mixunlearn:mixunlearn",
        QUICK,
        "MixUnlearn style",
        needs_remain=True,
    ),
    "certified_newton": Entry(
        "A damped Newton step to the optimum without the forget set, then noise; not a certificate",
        CertifiedNewtonParams,
        "engine.methods.certified_newton:certified_newton",
        {"lissa_steps": 20, "lissa_chains": 1, "damping": 10.0},
        "Newton step",
        needs_remain=True,
    ),
    "neg_grad_plus": Entry(
        "NegGrad+: descend on the remain set and ascend on the forget set at once, easy samples first",
        NegGradParams,
        "engine.methods.neg_grad:neg_grad_plus",
        QUICK | {"parts": 1},
        "NegGrad+",
    ),
    "reference_guided": Entry(
        "In the style of ReGUn: forget samples learn to look like held-out samples of their class",
        ReferenceGuidedParams,
        "engine.methods.reference_guided:reference_guided",
        QUICK,
        "ReGUn style",
        needs_holdout=True,
    ),
    "retrain": Entry(
        "Exact retraining without the forget set",
        RetrainParams,
        "engine.methods.retrain:retrain",
        label="Retrain",
        needs_remain=True,
        exact=True,
    ),
}
