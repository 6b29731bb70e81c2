"""The audit report: the typed contract between the worker that measures and the API that shows.

Everything here is an aggregate. No sample id, no per-sample score and no logit belongs in a report
(docs/architecture.md, "Guarantees"); the worst forgotten sample appears as a p-value without a name.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Verdict = Literal["pass", "fail", "inconclusive"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(Part):
    """A two-sided 95 % confidence interval."""

    low: float
    high: float


class Auc(Part):
    """An area under the ROC curve with its uncertainty (fractions, not percent)."""

    value: float
    standard_error: float = Field(description="sqrt of DeLong over samples plus jackknife over references")
    interval: Interval
    positives: int
    negatives: int


class Difference(Part):
    """Of two AUCs on the same samples; the interval is over samples."""

    value: float
    interval: Interval


class TprAtFpr(Part):
    """True-positive rate at a fixed false-positive rate; absent where there are under 10 / fpr controls."""

    fpr: float
    tpr: float
    interval: Interval = Field(description="Clopper-Pearson, over the positives")
    positives: int
    controls: int


class Curve(Part):
    """Points of a ROC curve, thinned to at most 200."""

    fpr: list[float]
    tpr: list[float]


class Histogram(Part):
    """Counts of the true class's softmax confidence in equal bins over [0, 1]."""

    forget: list[int]
    retain: list[int]
    test: list[int]


class ConvergencePoint(Part):
    """AUCs by a part of the references: would fewer have said the same?"""

    models: int
    samples: int = Field(description="forgotten samples that this number of references can judge")
    ft_auc: float | None
    rt_auc: float | None


class Relearning(Part):
    """Steps of fine-tuning on the forget set until it is back; absent where the cap came first."""

    steps: int | None
    target: float
    reaches: Literal["loss", "accuracy"]
    most_steps: int
    controlled: bool = Field(False, description="an exact retrain was measured beside it, in the same order")
    control_steps: int | None = Field(None, description="of the retrain; absent where the cap came first")


class ProbeFigure(Part):
    """A figure of a checkpoint, and the same of one exact retrain: what it shows without any unlearning."""

    value: float
    control: float | None = Field(description="of the retrain; absent where none could be trained")
    excess: Difference | None = Field(
        description="`value` less `control`, on the same samples, of which there are two at least"
    )
    samples: int = Field(description="forgotten samples that it rests on")
    details: dict[str, float] = Field(default_factory=dict, description="by name; a name in `_control`: the retrain's")


class Measurement(Part):
    """What was measured on one checkpoint. Accuracies are fractions."""

    accuracy_forget: float | None = Field(None, description="absent where there is no forget set")
    accuracy_retain: float | None = None
    accuracy_test: float | None = None
    ft_auc: Auc | None = Field(None, description="forget against never-trained controls; null about 0.5")
    fr_auc: Auc | None = Field(None, description="retain against forget")
    rt_auc: Auc | None = Field(None, description="retain against never-trained: the model's own signal")
    tpr: list[TprAtFpr] = Field(default_factory=list)
    worst_p_value: float | None = Field(
        None,
        description="smallest empirical p-value of a forgotten sample against the controls, times their number",
    )
    least_worst_p_value: float | None = Field(
        None, description="below which `worst_p_value` cannot fall: forgotten samples / (controls + 1)"
    )
    roc_ft: Curve | None = None
    confidence: Histogram | None = None
    matched_ft_auc: Auc | None = Field(
        None, description="forget against never-trained controls of the same class, class by class; null 0.5"
    )
    cross_checks: dict[str, Auc] = Field(
        default_factory=dict, description="FT-AUC by the other attacks, with their default parameters"
    )
    mis: float | None = Field(
        None, description="share of the forget set that a support-vector machine takes for unseen"
    )
    convergence: list[ConvergencePoint] = Field(default_factory=list, description="by number of references")
    known_method_ft_auc: Auc | None = Field(None, description="FT-AUC of the attack that knows the method")
    known_method_control: float | None = Field(
        None, description="the same attack on one exact retrain: what it shows without any unlearning. Not 0.5"
    )
    known_method_excess: Difference | None = Field(None, description="`known_method_ft_auc` less that control")
    relearning: Relearning | None = None
    robust_accuracy: float | None = Field(None, description="under a fixed L2 PGD, on the holdout")
    probed: dict[str, ProbeFigure] = Field(
        default_factory=dict, description="by the name of the probe, of those with a retrain beside them"
    )


class Balance(Part):
    """Is the forget set like a random draw of the training set? Each test at 1 %."""

    random_like: bool
    class_p_value: float | None = Field(None, description="chi-square of class counts, forget against controls")
    difficulty_p_value: float | None = Field(
        None, description="Mann-Whitney of the OUT-references' mean log-odds, forget against controls"
    )
    difficulty_within_classes_p_value: float | None = Field(
        None, description="the same class by class; absent where a class of the forget set has no controls"
    )
    difficulty_shift: float | None = Field(
        None, description="AUC of that comparison less 0.5; positive: the forget set is the easier one"
    )
    difficulty_shift_within_classes: float | None = None
    persons: int | None = Field(None, description="of a set requested by person: whose the forgotten samples are")
    remaining_persons: int | None = Field(
        None, description="forgotten people of whom other samples stay in the training data: then there is no control"
    )
    control_persons: int | None = Field(None, description="people of the holdout of whom nothing was trained on")
    effective_persons: float | None = Field(
        None,
        description="(sum of samples)² / sum of squares, of the smaller side: fewer than the people where some have "
        "many samples; a verdict takes 5",
    )
    left_out_shift: float | None = Field(
        None,
        description="AUC less 0.5 of the forget set against controls, by references that left them out, scored by the "
        "others; class by class where the classes differ",
    )
    left_out_p_value: float | None = Field(None, description="of that shift, over samples")
    grouped: bool | None = Field(
        None, description="the samples were chosen together, as one person's or one cluster's; no test shows that"
    )


class Judgement(Part):
    """The verdict and what it rests on."""

    verdict: Verdict
    reason: str
    margin: float
    null: float | None
    null_source: Literal["exchangeable", "same_classes", "people", "retrained", "assigned", "none"] = Field(
        description="assigned: canaries that the service's coin kept out are the controls"
    )
    null_bound: float | None = Field(
        None,
        description="of a set that differs a little: the null lies within `null` ± `null_bound`, half of the shift in "
        "difficulty or of `left_out_shift`, the larger; `interval` is as much wider on both sides",
    )
    null_standard_error: float | None = Field(
        None, description="`lethe.audit/1`: of a null from retrains, their spread"
    )
    null_models: int | None = Field(
        None,
        description="models behind the null: exact retrains with `retrained`, else references, each for the samples "
        "that it left out; absent in `lethe.audit/1` where the null is 0.5",
    )
    given_references: bool = Field(
        False,
        description="no reference was left out to measure their part of the error, because there are few or none: null "
        "and interval hold for these references and this attack. The null is then 0.5 by exchangeability",
    )
    difference: float | None = Field(
        None, description="d = FT-AUC - null; with `same_classes` the FT-AUC is the matched one"
    )
    standard_error: float | None = Field(None, description="of `difference`: candidate and null on the same samples")
    interval: Interval | None = None
    smallest_margin: float | None = Field(
        None,
        description="smallest margin at which an exact retrain would have met all conditions of a pass with 80 % "
        "power; absent where there is none. In `lethe.audit/1` by the interval alone: the conditions could fail at it",
    )
    parent_failed: bool | None = Field(
        None, description="whether the parent, or the control, fails the same test: is there a signal?"
    )
    candidates: int = Field(
        1,
        description="approximate methods that the policy may try on this set. With several a pass needs the interval "
        "of the level 5 % / candidates, and `smallest_margin` counts it",
    )
    leans: bool = Field(
        False,
        description="of several candidates: outside the margin at the level 0.025 ** (1 / candidates), so that the "
        "gate tries another one",
    )
    utility_floor: float | None = Field(None, description="lowest test accuracy that the policy accepts; absent: any")
    utility_kept: bool | None = Field(None, description="whether the candidate reaches it")

    @property
    def over_forgotten(self) -> bool:
        """Of a candidate that fails or leans to a fail: on which side."""
        return self.difference is not None and self.difference < -self.margin


class References(Part):
    models: int
    signal: str
    design: Literal["halves", "folds", "given", "given-other"] = Field(
        "halves",
        description="halves: each sample is in half of them. folds: one left it out. given: the client's own, trained "
        "as the model was; given-other: the client's own, of another architecture or recipe as far as is known",
    )
    pool_models: int | None = Field(
        None, description="`lethe.audit/1`: of the whole pool, where these are one half of it"
    )


class Adversarial(Part):
    """The adversarial set that the method used."""

    attack: str
    policy: Literal["recompute", "precomputed"]
    found: int
    total: int
    mean_norm: float | None = Field(None, description="mean L2 distance of the found, pixels in [0, 1]")
    radius_counts: dict[str, int] = Field(default_factory=dict, description="samples found at each radius")
    transfer_fooled: float | None = Field(
        None, description="with the `transfer` attack: share of the other version's examples that fool the parent too"
    )
    transfer_agreed: float | None = Field(None, description="share on which the parent gives the same wrong label")


class TriedStep(Part):
    """A step whose candidate was rejected. Its job has its report."""

    job: str
    method: str
    verdict: Verdict
    reason: str


class GateDecision(Part):
    """What the gate decided on the candidate, and what was tried before it (docs/gate.md)."""

    step: int = Field(description="of the escalation, from 1: the policy's own method")
    steps: int
    judged: bool = Field(True, description="`lethe.audit/1`: by references that had no part in choosing it")
    references: Literal["all", "choosing half", "judging half"] = Field(
        "all", description="other than `all` in `lethe.audit/1` only"
    )
    note: str | None = Field(
        None, description="`lethe.audit/1`: why the references were not divided, though the policy has several steps"
    )
    selection: Judgement | None = Field(
        None, description="`lethe.audit/1`: on the choosing half, of a candidate that was then judged"
    )
    action: Literal["publish", "escalate", "attention"]
    reason: str
    next_method: str | None = None
    alert: bool = Field(False, description="the legal deadline changed the decision, or will probably be missed")
    earlier: list[TriedStep] = Field(default_factory=list, description="oldest first")
    rejudged: int = Field(
        0,
        description="of an approximate candidate: number of escalations on its batch that ended with a fail before a "
        "person retried; it cannot pass then",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, data: Any) -> Any:
        """Reports of version 0.1 are sealed by their digest and never rewritten: they are read in today's words."""
        if isinstance(data, dict) and "rung" in data and "rungs" in data:
            renamed = {{"rung": "step", "rungs": "steps"}.get(name, name): value for name, value in data.items()}
            return renamed | ({"action": "escalate"} if renamed.get("action") == "climb" else {})
        return data


class ProbeRun(Part):
    """A probe that was asked for; its figures stand in the measurements."""

    name: str
    params: dict[str, object]
    seconds: float = Field(description="what it cost")
    models_trained: int = Field(0, description="what it cost, in models")
    skipped: str | None = Field(None, description="why it was not run")


class AuditReport(Part):
    """The report of one version: candidate, its parent, and what was judged."""

    format: Literal["lethe.audit/1", "lethe.audit/2"] = Field(
        "lethe.audit/2", description="1: `judgement.smallest_margin` and the standard errors are those of version 0.2"
    )
    created_at: str
    model: str
    version: int | None
    checkpoint: str = Field(description="sha256 digest of the audited file, reloaded from storage")
    parent_checkpoint: str | None
    method: str
    method_params: dict[str, object]
    remain_access: str
    of: Literal["forget-set", "canaries"] = Field(
        "forget-set", description="canaries: all that this version and those before it have forgotten stand for it"
    )
    sham: bool = Field(
        False,
        description="nothing was unlearned: half of the canaries still known stand for it, and the audit must fail",
    )
    canaries: int = Field(0, description="forgotten along by the same job; they are in no figure of the forget set")
    forget_samples: int
    retain_samples: int = Field(description="of the remain set, without its canaries; of canaries, those still known")
    test_samples: int
    audit: str
    audit_params: dict[str, object]
    candidate: Measurement
    parent: Measurement | None
    control: Measurement | None = Field(
        None, description="of an audit of canaries: the candidate on those that it still knows, in the parent's place"
    )
    balance: Balance | None
    judgement: Judgement
    references: References | None
    adversarial: Adversarial | None
    gate: GateDecision | None = Field(None, description="absent from comparisons and from audits made afterwards")
    probes: list[ProbeRun] = Field(default_factory=list)
    seed: int
    stage_seconds: dict[str, float]
    environment: dict[str, str] = Field(description="versions of code and libraries, device, threads")
    next_steps: list[str] = Field(
        default_factory=list, description="where it is no pass: one or two actions that could lead to a verdict, priced"
    )
    not_shown: list[str] = Field(description="what this report does not show")
