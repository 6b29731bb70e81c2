"""The catalog: every method, attack, audit, architecture, recipe and source by name, without torch.

A name maps to an `Entry`: the pydantic model of its parameters and facts about it that policy checks
need. `worker/registry.py` binds the same names to functions; a test holds both to the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

CLASS_NAME = r"^[^\x00-\x1f\x7f/\\]+$"
OPTION_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,39}$"
OPTION_TEXT = r"^[^\x00-\x1f\x7f]*$"
TORCHVISION_MODEL = r"^[a-z0-9_]{2,60}$"
TORCHVISION_SET = r"^[A-Za-z0-9]{2,40}$"
WORDS = {
    CLASS_NAME: "a text without control characters, `/` and `\\`",
    OPTION_NAME: "1 to 40 of `A-Z`, `a-z`, `0-9` and `_`, no digit first",
    OPTION_TEXT: "a text without control characters",
    TORCHVISION_MODEL: "2 to 60 of `a-z`, `0-9` and `_`",
    TORCHVISION_SET: "2 to 40 of `A-Z`, `a-z` and `0-9`",
}
"""Each of these regular expressions in words, for people."""


class Params(BaseModel):
    """Base of all parameter models: unknown keys are refused, defaults are filled in, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# -- methods ---------------------------------------------------------------------------------------


class FineTuneSchedule(Params):
    """How a method walks its fine-tuning set (SGD; AMUN paper, section 5.1 and appendix)."""

    epochs: PositiveInt = Field(10, le=1000)
    learning_rate: PositiveFloat = Field(0.01, le=10)
    batch_size: PositiveInt = Field(128, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    decay_every: PositiveInt | None = Field(None, le=1000, description="multiply the rate by 0.1 every so many epochs")


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
    """RL: fine-tune on the forget set under wrong labels drawn anew at each visit, beside the remain set."""


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
    mask_grid: PositiveInt = Field(8, le=64, description="features are pooled to at most so many rows and columns")


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


class FfgsmParams(Params):
    """Steps along the sign of one gradient with random restarts (AMUN, table 9); defaults are ours."""

    step: PositiveFloat = Field(1 / 255, le=1, description="L-infinity length of a step, pixels in [0, 1]")
    steps: PositiveInt = Field(16, le=1000, description="steps along one sign")
    noise: NonNegativeFloat = Field(2 / 255, le=1, description="a restart begins within this of the image")
    starts: PositiveInt = Field(10, le=1000)
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise")
    batch_size: PositiveInt = Field(512, le=65536)


class TransferParams(Params):
    """The adversarial set of another version: its inputs with its labels (AMUN, table 8)."""

    version: PositiveInt | None = Field(None, description="whose set to use; None: the newest other one that has one")
    keep: Literal["all", "fooling"] = Field(
        "all", description="all of its examples, as in the paper, or those that fool this model too"
    )
    batch_size: PositiveInt = Field(512, le=65536)


# -- audits ----------------------------------------------------------------------------------------


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
    gamma: PositiveFloat = Field(2.0, le=1e6)
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


# -- probes: what an audit may measure beside its verdict, on models instead of logits ------------------


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


# -- recipes ---------------------------------------------------------------------------------------


Precision = Literal["float32", "bfloat16"]


class SgdRecipe(Params):
    """Plain SGD from random weights."""

    epochs: PositiveInt = Field(30, le=10000)
    learning_rate: PositiveFloat = Field(0.1, le=10)
    batch_size: PositiveInt = Field(64, le=65536)
    momentum: NonNegativeFloat = Field(0.9, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, lt=1)
    schedule: Literal["cosine", "step"] = "cosine"
    step_every: PositiveInt = Field(40, le=10000, description="with schedule `step`: multiply the rate by 0.1 so often")
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
    step_every: PositiveInt = Field(75, le=10000, description="with schedule `step`: multiply the rate by 0.1 so often")
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
    every: PositiveInt = Field(50, le=100_000, description="clip after so many steps of the optimizer")
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


# -- sources ---------------------------------------------------------------------------------------


class DigitsSource(Params):
    """The 1,797 digits of 8x8 pixels that ship with scikit-learn, with fixed Gaussian pixel noise.

    Plain digits hide membership (RT-AUC 0.60); with noise 0.3 it shows (0.75 at 87 % test accuracy).
    """

    noise: NonNegativeFloat = Field(0.3, le=2, description="standard deviation, pixels in [0, 1], then clipped")
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise and of the train / holdout halves")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("class names must differ")
    return names


ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=CLASS_NAME)]
ClassNames = Annotated[
    tuple[ClassName, ...], Field(strict=False, min_length=1, max_length=10_000), AfterValidator(_distinct)
]
Side = Annotated[int, Field(ge=1, le=1024)]
Shape = Annotated[tuple[Side, Side, Literal[1, 3]], Field(strict=False)]
"""Height, width, channels."""
OptionName = Annotated[str, Field(pattern=OPTION_NAME)]
OptionText = Annotated[str, Field(max_length=200, pattern=OPTION_TEXT)]
OptionInteger = Annotated[int, Field(ge=-(2**53), le=2**53)]
OptionNumber = Annotated[float, Field(ge=-(2**53), le=2**53)]


class TorchvisionSource(Params):
    """Any classification set that `torchvision.datasets` can download or make, by class name."""

    dataset: str = Field("CIFAR10", pattern=TORCHVISION_SET)
    options: dict[OptionName, OptionText | OptionInteger | OptionNumber | bool] = Field(
        default_factory=dict,
        description="further keyword arguments of the dataset class, e.g. size of FakeData",
    )


class UploadSource(Params):
    """Bytes sent by `PUT /v1/datasets/{dataset}/content`, in a form that its Content-Type names.

    `application/vnd.apache.parquet`: columns `id`, `image`, `label` and, optionally, `split` (train or holdout) and
    `subject`. `application/x-npz`: arrays `images`, `labels`, `ids` and, optionally, `holdout` and `subject`, without
    pickle. `application/zip`: an image folder, `train/<class>/<name>.png` and `holdout/<class>/…`, whose paths are the
    ids; or an npz: a zip archive is one when all of its members end in `.npy`.
    """

    holdout_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the samples kept as never-trained controls when no split is sent",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    class_names: ClassNames | None = Field(
        None, description="by label; null: of an image folder its folders of train, sorted, and else none"
    )
    shape: Shape | None = Field(None, description="what the images must have; null: all as the first one")


class ExternalSource(Params):
    """Data that this service does not hold: no bytes and no ids, only what a model of it must know.

    Each deletion brings the samples to forget with it (`carried_for` of `POST /v1/datasets`), and never-trained
    controls; nothing of them is kept afterwards.
    """

    classes: PositiveInt = Field(10, le=10_000)
    shape: Shape = (32, 32, 3)
    class_names: ClassNames | None = Field(None, description="by label; the folders of image folders sent later")

    @model_validator(mode="after")
    def _as_many(self) -> ExternalSource:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError("there must be as many class names as classes")
        return self


# -- the tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One name of the catalog."""

    summary: str
    params: type[Params]
    needs_remain: bool = False
    needs_adversarial: bool = False
    needs_given: bool = False  # an attack that takes another version's adversarial set instead of searching
    held: bool = True  # a source whose samples this service has
    exact: bool = False  # forgets by construction: its provenance is the proof, the audit only reports


METHODS: Mapping[str, Entry] = {
    "amun": Entry(
        "AMUN: fine-tune on each forget sample's nearest adversarial example with its wrong label",
        AmunParams,
        needs_adversarial=True,
    ),
    "amun_salun": Entry(
        "AMUN on the weights that are salient for the forget set alone", AmunSalunParams, needs_adversarial=True
    ),
    "boundary_shrink": Entry(
        "BS: fine-tune the forget set on the labels of the nearest other class", BoundaryShrinkParams
    ),
    "certified_newton": Entry(
        "A damped Newton step to the optimum without the forget set, then noise; not a certificate",
        CertifiedNewtonParams,
        needs_remain=True,
    ),
    "fine_tune": Entry("FT: fine-tune on the remain set", FineTuneParams, needs_remain=True),
    "gradient_ascent": Entry("GA: raise the loss on the forget set", GradientAscentParams),
    "l1_sparse": Entry("FT with a decaying penalty on the l1 norm of the weights", L1SparseParams, needs_remain=True),
    "mixunlearn": Entry(
        "In the style of MixUnlearn: contrastive unlearning against a generator of forget/remain blends",
        MixUnlearnParams,
        needs_remain=True,
    ),
    "random_label": Entry("RL: fine-tune the forget set on random wrong labels", RandomLabelParams),
    "salun": Entry("SalUn: RL on the weights that are salient for the forget set alone", SalunParams),
    "retrain": Entry("Exact retraining without the forget set", RetrainParams, needs_remain=True, exact=True),
}

ATTACKS: Mapping[str, Entry] = {
    "pgd_l2": Entry("L2 PGD with a radius that doubles until the label flips (AMUN, Algorithm 1)", PgdL2Params),
    "fast_min_norm": Entry("The nearest mislabelled image, at a fraction of the cost of pgd_l2", FastMinNormParams),
    "ffgsm": Entry("The weak attack: along the sign of one gradient, with restarts", FfgsmParams),
    "transfer": Entry("Another version's adversarial set: nothing is searched", TransferParams, needs_given=True),
}

AUDITS: Mapping[str, Entry] = {
    "rmia": Entry("RMIA membership inference against a pool of reference models", RmiaParams),
    "lira": Entry("LiRA membership inference against the same pool, as a cross-check", LiraParams),
    "mis": Entry("The confidence itself, and the share a support-vector machine takes for unseen", MisParams),
}

PROBES: Mapping[str, Entry] = {
    "relearn": Entry("Steps of fine-tuning until the forget set is back", RelearnParams),
    "robust_accuracy": Entry("Accuracy under a fixed L2 PGD", RobustParams),
    "known_method": Entry("Shadow models unlearned by the same method", KnownMethodParams),
}

ARCHITECTURES: Mapping[str, Entry] = {
    "small_cnn": Entry("A small convolutional network for CPUs", SmallCnnParams),
    "resnet18": Entry("ResNet-18 for 32x32 images", ResNet18Params),
    "vgg19_bn": Entry("VGG19 with batch norm for images of 8 to 64 pixels", Vgg19Params),
    "vit": Entry("A small vision transformer", VitParams),
    "torchvision": Entry("Any classifier of torchvision by name, untrained", TorchvisionParams),
}

RECIPES: Mapping[str, Entry] = {
    "sgd": Entry("SGD with momentum", SgdRecipe),
    "fast": Entry("SGD in few epochs of large batches", FastRecipe),
    "trades": Entry("Adversarial training by TRADES", TradesRecipe),
    "spectral_clipping": Entry("SGD with every layer's operator norm clipped", SpectralClippingRecipe),
}

SOURCES: Mapping[str, Entry] = {
    "digits": Entry("scikit-learn's digits, noisy; needs no network", DigitsSource),
    "torchvision": Entry("a torchvision classification set, downloaded by the worker", TorchvisionSource),
    "upload": Entry("bytes that the client streams in", UploadSource),
    "external": Entry("data that stay with the client, who sends what is to be forgotten", ExternalSource, held=False),
}

KINDS: Mapping[str, Mapping[str, Entry]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "audits": AUDITS,
    "probes": PROBES,
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
