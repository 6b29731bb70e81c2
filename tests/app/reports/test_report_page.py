"""The HTML audit report: verdicts in words, nothing from outside, nothing unescaped, nothing left out."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from app.formats.audit_report import (
    Adversarial,
    Auc,
    AuditReport,
    Balance,
    Curve,
    Difference,
    GateDecision,
    Histogram,
    Interval,
    Judgement,
    Measurement,
    ProbeFigure,
    ProbeRun,
    References,
    Relearning,
    TprAtFpr,
    TriedStep,
)
from app.releases.escalation import judged_again
from app.reports import plots, svg
from app.reports.numbers import decimal, p_value, percent, setting, signed
from app.reports.page import Covered, render, situation
from engine.audits.rule import Estimate, judge, smallest_margin

HOSTILE = "\"><script src='https://evil.example/x.js'>alert(1)</script><img src=//evil.example onerror=x>&{{7*7}}"
VOID = {"meta", "link", "img", "br", "hr", "input"}
OUTSIDE = {"src", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href", "style"}
BINS = 20


# -- reports made by hand ---------------------------------------------------------------------------


def auc(value: float, error: float = 0.031, positives: int = 144, negatives: int = 359) -> Auc:
    interval = Interval(low=value - 1.959964 * error, high=value + 1.959964 * error)
    return Auc(value=value, standard_error=error, interval=interval, positives=positives, negatives=negatives)


def curve(area: float) -> Curve:
    """tpr = fpr ** (1 / area - 1) has exactly that area."""
    fpr = [i / 60 for i in range(61)]
    return Curve(fpr=fpr, tpr=[f ** (1 / area - 1) for f in fpr])


def counts(total: int, sharp: float) -> list[int]:
    shares = [((i + 1) / BINS) ** sharp for i in range(BINS)]
    head = [int(total * s / sum(shares)) for s in shares[:-1]]
    return [*head, total - sum(head)]


def measurement(ft: float, accuracy: float, sharp: float, error: float = 0.031) -> Measurement:
    return Measurement(
        accuracy_forget=accuracy,
        accuracy_retain=0.9987,
        accuracy_test=0.8742,
        ft_auc=auc(ft, error),
        fr_auc=auc(1.22 - ft, error, 1293, 144),
        rt_auc=auc(0.747, 0.0164, 1293, 359),
        tpr=[TprAtFpr(fpr=0.05, tpr=0.0833, interval=Interval(low=0.0438, high=0.1414), positives=144, controls=359)],
        worst_p_value=0.2785,
        roc_ft=curve(ft),
        confidence=Histogram(forget=counts(144, sharp), retain=counts(1293, 14), test=counts(359, 6)),
    )


def judged(ft: float, error: float, margin: float, parent: float | None) -> Judgement:
    estimate = Estimate(ft - 0.5, error)
    other = None if parent is None else Estimate(parent - 0.5, error)
    signal = Estimate(0.247, 0.0164)
    ruling = judge(estimate, margin, parent=other, signal=signal)
    return Judgement.model_validate(
        {
            "verdict": ruling.verdict,
            "reason": ruling.reason,
            "margin": margin,
            "null": 0.5,
            "null_source": "exchangeable",
            "difference": estimate.difference,
            "interval": {"low": estimate.low, "high": estimate.high},
            "smallest_margin": smallest_margin(estimate, other, signal),
            "parent_failed": None if other is None else abs(other.difference) > margin,
        }
    )


def report(ft: float = 0.517, error: float = 0.031, margin: float = 0.1, parent: float = 0.742) -> AuditReport:
    return AuditReport(
        created_at="2026-07-14T09:31:07Z",
        model="digits-cnn",
        version=2,
        checkpoint="sha256:" + "9f3a" * 16,
        parent_checkpoint="sha256:" + "07c1" * 16,
        method="amun",
        method_params={
            "epochs": 10,
            "learning_rate": 0.02,
            "fine_tuning_set": "forget_and_adversarial",
            "clip": None,
        },
        remain_access="full",
        forget_samples=144,
        retain_samples=1293,
        test_samples=359,
        audit="rmia_online",
        audit_params={"gamma": 2.0, "population": [1, 2, 3]},
        candidate=measurement(ft, 0.8611, 6, error),
        parent=measurement(parent, 0.9931, 12, error).model_copy(update={"worst_p_value": 0.00042}),
        balance=Balance(random_like=True, class_p_value=0.8123, difficulty_p_value=0.0342),
        judgement=judged(ft, error, margin, parent),
        references=References(models=16, signal="softmax"),
        adversarial=Adversarial(
            attack="pgd_l2",
            policy="recompute",
            found=141,
            total=144,
            mean_norm=0.8213,
            radius_counts={"0.25": 31, "0.5": 58, "1.0": 40, "10.0": 4, "2.0": 8},
        ),
        seed=20260714,
        stage_seconds={"attack": 3.84, "finetune": 5.21, "audit": 2.47, "publish": 0.06},
        environment={"lethe": "0.1.0", "torch": "2.13.0", "device": "cpu", "threads": "2"},
        not_shown=[
            "That no trace of any single sample is left.",
            "That another attack would not find more.",
            "Anything about copies outside this service.",
        ],
    )


def bare(verdict_reason: str = "no references") -> AuditReport:
    """An import without bytes or recipe: everything that may be unknown is."""
    return AuditReport(
        created_at="2026-07-14T09:31:07Z",
        model="imported",
        version=None,
        checkpoint="sha256:" + "ab" * 32,
        parent_checkpoint=None,
        method="gradient_ascent",
        method_params={},
        remain_access="none",
        forget_samples=1,
        retain_samples=0,
        test_samples=0,
        audit="none",
        audit_params={},
        candidate=Measurement.model_validate({"accuracy_forget": 0.0}),
        parent=None,
        balance=None,
        judgement=Judgement.model_validate(
            {
                "verdict": "inconclusive",
                "reason": verdict_reason,
                "margin": 0.05,
                "null": None,
                "null_source": "none",
            }
        ),
        references=None,
        adversarial=None,
        seed=0,
        stage_seconds={},
        environment={},
        not_shown=[],
    )


def hostile() -> AuditReport:
    base = report().model_dump()
    adversarial = base["adversarial"] | {"attack": HOSTILE, "radius_counts": {HOSTILE: 3, "0.5": 2}}
    changed = {
        "model": HOSTILE,
        "created_at": HOSTILE,
        "checkpoint": HOSTILE,
        "parent_checkpoint": HOSTILE,
        "method": HOSTILE,
        "method_params": {HOSTILE: HOSTILE, "nested": {"a": [HOSTILE]}},
        "remain_access": HOSTILE,
        "audit": HOSTILE,
        "audit_params": {HOSTILE: HOSTILE},
        "judgement": base["judgement"] | {"reason": HOSTILE},
        "references": base["references"] | {"signal": HOSTILE},
        "adversarial": adversarial,
        "gate": escalated().model_dump()["gate"]
        | {
            "reason": HOSTILE,
            "note": HOSTILE,
            "action": "escalate",
            "next_method": HOSTILE,
            "earlier": [{"job": HOSTILE, "method": HOSTILE, "verdict": "fail", "reason": HOSTILE}],
        },
        "probes": [{"name": HOSTILE, "params": {HOSTILE: HOSTILE}, "seconds": 1.0, "skipped": HOSTILE}],
        "stage_seconds": {HOSTILE: 1.0},
        "environment": {HOSTILE: HOSTILE},
        "not_shown": [HOSTILE],
    }
    return AuditReport.model_validate(base | changed)


def escalated() -> AuditReport:
    """The second step of three, judged by half of the references, published since the deadline came first."""
    base = report()
    gate = GateDecision(
        step=2,
        steps=3,
        judged=True,
        references="judging half",
        selection=judged(0.511, 0.044, 0.1, 0.742),
        action="publish",
        reason="it is under the utility floor, but the legal deadline comes first",
        alert=True,
        earlier=[
            TriedStep(job="job_before", method="salun", verdict="fail", reason="the audit failed: over-forgotten")
        ],
    )
    probes = [
        ProbeRun(name="relearn", params={"most_steps": 40}, seconds=1.25),
        ProbeRun(name="robust_accuracy", params={}, seconds=0.5),
        ProbeRun(name="known_method", params={"shadows": 16}, seconds=1234.5, models_trained=32),
        ProbeRun(name="completeness", params={"steps": 10}, seconds=0.25, models_trained=1),
        ProbeRun(name="two_versions", params={}, seconds=0.25),
    ]
    again = Relearning(steps=17, target=0.0123, reaches="loss", most_steps=40, controlled=True, control_steps=23)
    candidate = base.candidate.model_copy(
        update={
            "relearning": again,
            "robust_accuracy": 0.4321,
            "known_method_ft_auc": auc(0.5432),
            "probed": {
                "completeness": ProbeFigure(
                    value=0.6123,
                    control=0.7345,
                    excess=Difference(value=-0.1222, interval=Interval(low=-0.1501, high=-0.0943)),
                    samples=40,
                ),
                "two_versions": ProbeFigure(value=0.8123, control=None, excess=None, samples=40),
            },
        }
    )
    never = Relearning(steps=None, target=0.0123, reaches="loss", most_steps=40)
    parent = base.parent.model_copy(update={"relearning": never}) if base.parent else None
    judgement = base.judgement.model_copy(update={"utility_floor": 0.9012, "utility_kept": False})
    changed = {"gate": gate, "probes": probes, "candidate": candidate, "parent": parent, "judgement": judgement}
    return base.model_copy(update=changed)


def planted(ft: float = 0.517, known: float = 0.742) -> AuditReport:
    """An audit of canaries: those still known stand in the parent's place."""
    base = report(ft=ft, parent=known)
    changed = {"of": "canaries", "parent": None, "parent_checkpoint": None, "control": base.parent, "adversarial": None}
    return base.model_copy(update=changed)


RETRAINED = measurement(0.506, 0.8542, 5.5)
PAGES = {
    "pass": lambda: render(report(), RETRAINED, "An exact retrain without the forgotten samples, same recipe."),
    "remembered": lambda: render(report(ft=0.688)),
    "over-forgotten": lambda: render(report(ft=0.301), RETRAINED),
    "too-uncertain": lambda: render(report(margin=0.05)),
    "no-signal": lambda: render(report(parent=0.52)),
    "bare": lambda: render(bare()),
    "escalated": lambda: render(escalated(), RETRAINED),
    "canaries": lambda: render(planted()),
    "hostile": lambda: render(hostile(), RETRAINED, HOSTILE, HOSTILE),
}


class Page(HTMLParser):
    """Balanced tags, the text, and every element with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.style = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\u00a0", " "))


@pytest.fixture(params=PAGES, ids=str)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(PAGES[request.param]())


# -- the page as a document -------------------------------------------------------------------------


def test_nothing_is_requested_and_nothing_runs(page: Page) -> None:
    for name, attributes in page.elements:
        assert name not in {
            "script",
            "link",
            "iframe",
            "object",
            "embed",
            "img",
            "base",
            "form",
            "image",
            "use",
        }
        assert not OUTSIDE & attributes.keys(), (name, attributes)
        assert not [key for key in attributes if key.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_policy_admits_only_this_style_sheet(page: Page) -> None:
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = b64encode(sha256(page.style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")


def test_structure_can_be_navigated(page: Page) -> None:
    names = [name for name, _ in page.elements]
    assert names.count("h1") == names.count("main") == names.count("title") - names.count("desc") == 1
    levels = [int(name[1]) for name in names if re.fullmatch(r"h[1-6]", name)]
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert all(attributes.get("scope") in {"row", "col"} for name, attributes in page.elements if name == "th")
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for name, attributes in page.elements:
        if name == "svg":
            named = (attributes.get("aria-labelledby") or "").split()
            assert attributes.get("aria-hidden") == "true" or (named and set(named) <= set(identifiers))
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in identifiers  # type: ignore[index]


def test_no_coordinate_is_lost(page: Page) -> None:
    for name, attributes in page.elements:
        for key in {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"} & attributes.keys():
            if name in {"rect", "line", "circle", "text"}:
                value = float(attributes[key] or "nan")
                assert -1 <= value <= 1000, (name, key, value)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * digit for digit in colour.lstrip("#"))
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    blocks = re.findall(r":root \{([^}]*)\}", Page(render(bare())).style)
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", blocks[scheme]))
    text = [(ink, ground) for ink in ("ink", "soft", "candidate") for ground in ("paper", "card")]
    for verdict in ("pass", "fail", "inconclusive"):
        text += [(verdict, f"{verdict}-tint"), ("ink", f"{verdict}-tint")]
    drawn = [(mark, "card") for mark in ("parent", "candidate", "retrained", "bar")]
    drawn += [(mark, "band") for mark in ("parent", "candidate", "retrained")]
    assert {pair: ratio for pair in text if (ratio := contrast(colour[pair[0]], colour[pair[1]])) < 4.5} == {}
    assert {pair: ratio for pair in drawn if (ratio := contrast(colour[pair[0]], colour[pair[1]])) < 3} == {}


# -- the verdict in words ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "verdict", "words"),
    [
        ("pass", "Pass", "look like samples the model never saw"),
        ("remembered", "Fail", "still remembers the forgotten samples"),
        ("over-forgotten", "Fail", "stand out as unlike unseen data"),
        ("too-uncertain", "Inconclusive", "too uncertain to decide"),
        ("no-signal", "Inconclusive", "no clear signal"),
        ("bare", "Inconclusive", "No valid test could be made"),
    ],
)
def test_the_banner_comes_first_and_says_it_in_words(case: str, verdict: str, words: str) -> None:
    page = Page(PAGES[case]())
    main = page.text.split("audited 2026-07-14T09:31:07Z", 1)[1]
    assert main.lstrip().startswith(verdict)
    assert words in main.split("What this means")[0]
    assert "What this does not show" in main
    banner = next(a for _, a in page.elements if a.get("aria-labelledby") == "verdict")
    assert banner["class"] == f"verdict {verdict.lower()}"


def test_it_is_titled_by_the_name_of_the_model_with_its_id_beside() -> None:
    text = Page(render(report(), name="Reader <1>")).text
    assert "Unlearning audit: Reader <1>, version 2: pass" in text
    assert "Reader <1>, version 2 model digits-cnn · " in text
    assert "Unlearning audit: digits-cnn, version 2: pass" in Page(render(report())).text


def test_the_accuracy_on_the_forgotten_has_one_name_and_is_explained() -> None:
    text = Page(render(report())).text
    assert "Forget accuracy 144 forgotten samples" in text
    assert text.casefold().count("unlearn accuracy") == 1
    assert "The papers say unlearn accuracy for forget accuracy." in text


def test_the_reason_is_shown_whole() -> None:
    made = report(margin=0.05)
    assert "[-0.044" in made.judgement.reason
    assert made.judgement.reason.replace("[-", "[\u2212") in Page(render(made)).text


def test_a_hyphen_is_no_minus_sign_wherever_it_stands() -> None:
    made = report(margin=0.05)
    gate = GateDecision(step=1, steps=2, action="publish", reason="d = -0.3, at -.5")
    made = made.model_copy(update={"gate": gate, "method_params": {"shift": -1, "name": "a-1", "rates": [-0.5, 2]}})
    text = Page(render(made)).text
    assert re.findall(r"(?<![\w.)\]/+-])-\.?\d", text) == []
    for shown in ("d = \u22120.3, at \u2212.5", "\u22121", "[\u22120.5, 2]", "a-1", "2026-07-14T09:31:07Z"):
        assert shown in text, shown


def test_what_to_do_next_comes_right_after_the_verdict_and_before_the_figures() -> None:
    made = report(margin=0.05).model_copy(update={"next_steps": ["Train 16 reference models."]})
    covered = [Covered("del_1", "sha256:ab"), Covered("del_2", None)]
    text = Page(render(made, covered=covered)).text
    places = [
        text.index(words)
        for words in (
            made.judgement.verdict.capitalize(),
            "Reason:",
            "What to do next",
            "Train 16 reference models.",
            "What this means",
            "Requests that it carries out",
            "del_1",
            "sha256:ab",
            "del_2",
            "not sealed yet",
            "FT-AUC forgotten against",
        )
    ]
    assert places == sorted(places)
    assert "Requests that it carries out" not in Page(render(made)).text


def test_a_printed_page_says_which_it_is() -> None:
    assert "counter(page)" in render(report(margin=0.05))


def test_a_null_that_is_known_within_a_bound_says_so_and_the_intervals_are_drawn_as_wide() -> None:
    base = report()
    bounded = base.model_copy(
        update={
            "judgement": base.judgement.model_copy(update={"null": 0.528, "null_bound": 0.0281}),
            "balance": Balance(random_like=False, class_p_value=0.7, difficulty_p_value=0.001, difficulty_shift=0.0562),
        }
    )
    text = Page(render(bounded)).text
    assert "only known to within ±0.028" in text
    assert "but for a small shift in difficulty" in text
    assert "only known to within" not in Page(render(base)).text
    assert base.parent is not None
    assert base.parent.ft_auc is not None
    ends = base.parent.ft_auc.interval
    said = f"{signed(ends.low - 0.528 - 0.0281)} to {signed(ends.high - 0.528 + 0.0281)}"
    assert said in render(bounded)
    assert said not in render(base)


def test_situation_of_a_candidate_that_lost_its_signal() -> None:
    judgement = report().judgement.model_copy(update={"verdict": "inconclusive", "reason": "RT-AUC"})
    assert situation(judgement) == "no-longer-comparable"
    assert "changed too much" in render(report().model_copy(update={"judgement": judgement}))


def test_a_pass_that_was_judged_again_is_none_and_the_page_says_why() -> None:
    passed = report().judgement
    assert (passed.verdict, judged_again(passed, 0)) == ("pass", passed)
    again = judged_again(passed, 2)
    assert (again.verdict, again.interval) == ("inconclusive", passed.interval)
    assert "judged again after this batch had failed 2 times" in again.reason
    gate = GateDecision(
        step=1, steps=1, judged=True, references="all", action="publish", reason="labelled so", rejudged=2
    )
    page = render(report().model_copy(update={"judgement": again, "gate": gate}))
    assert "cannot count as a pass" in page
    assert "ended with a fail 2 times before" in page
    for verdict in ("fail", "inconclusive"):
        other = passed.model_copy(update={"verdict": verdict})
        assert judged_again(other, 2) == other


# -- every number, and nothing invented -------------------------------------------------------------


def numbers(measured: Measurement) -> list[str]:
    found = [
        percent(measured.accuracy_forget),
        percent(measured.accuracy_retain),
        percent(measured.accuracy_test),
    ]
    for area in (measured.ft_auc, measured.fr_auc, measured.rt_auc):
        assert area is not None
        found += [
            decimal(area.value),
            decimal(area.standard_error),
            f"{area.positives:,}",
            f"{area.negatives:,}",
        ]
        found.append(f"{decimal(area.interval.low)} to {decimal(area.interval.high)}")
    for rate in measured.tpr:
        found += [f"{100 * rate.fpr:g} %", percent(rate.tpr), f"{rate.positives} / {rate.controls}"]
        found.append(f"{percent(rate.interval.low)} to {percent(rate.interval.high)}")
    assert measured.confidence is not None
    for bins in (measured.confidence.forget, measured.confidence.retain, measured.confidence.test):
        found += [f"{sum(bins):,}", " · ".join(str(n) for n in bins)]
    return [*found, p_value(measured.worst_p_value)]


def test_every_number_appears() -> None:
    made = report()
    text = Page(render(made, RETRAINED)).text
    judgement = made.judgement
    assert judgement.interval is not None
    expected = [
        *numbers(made.candidate),
        *numbers(RETRAINED),
        signed(judgement.difference),
        f"{decimal(judgement.interval.low)} to {decimal(judgement.interval.high)}",
        decimal(judgement.smallest_margin),
        *("±0.1", "0.500", "0.812", "0.034"),
        *("141 of 144", "97.9 %", "0.821", "20260714"),
        *("3.8 s", "5.2 s", "2.5 s", "0.1 s", "11.6 s"),
        *("1,293 kept samples", "359 unseen samples", "144 forgotten samples"),
        *("0.02", "[1, 2, 3]", "not set", "2.13.0", made.checkpoint, made.parent_checkpoint or ""),
        *made.not_shown,
    ]
    assert made.parent is not None
    expected += numbers(made.parent)
    missing = [number for number in expected if number.replace("\u00a0", " ") not in text]
    assert not missing
    assert "not measured" not in text


def test_what_the_gate_decided_and_what_it_cost_is_said() -> None:
    text = Page(render(escalated(), RETRAINED)).text
    expected = [
        *("2 of 3", "Deadline alert.", "Published", "the half that judges", "job_before", "over-forgotten"),
        *(
            "90.1 %: not kept",
            "17 loss 0.012; an exact retrain: 23",
            "more than 40",
            "43.2 %",
            "0.543",
            "1,234.5 s and 32 models trained",
        ),
        *("an exact retrain 0.735", "\N{MINUS SIGN}0.122", "something is left", "Both versions known"),
    ]
    assert [words for words in expected if words not in text] == []
    assert "What was decided" not in Page(render(report())).text


def test_a_report_of_version_0_1_reads_as_one_of_today() -> None:
    for action in ("publish", "climb"):
        stored = escalated().model_dump(mode="json")
        gate = stored["gate"]
        gate |= {"rung": gate.pop("step"), "rungs": gate.pop("steps"), "action": action, "next_method": "salun"}
        found = AuditReport.model_validate(stored)
        assert found.gate is not None
        assert (found.gate.step, found.gate.steps) == (2, 3)
        assert found.gate.action == ("escalate" if action == "climb" else "publish")
        assert "2 of 3" in Page(render(found)).text


def test_a_rejected_candidate_says_what_is_tried_next() -> None:
    found = escalated()
    assert found.gate is not None
    gate = found.gate.model_copy(update={"action": "escalate", "next_method": "retrain", "references": "choosing half"})
    text = Page(render(found.model_copy(update={"gate": gate, "version": None}))).text
    assert "Rejected , and retrain is tried next on the same batch" in text
    assert "the other half has not seen this candidate" in text
    assert "will probably be missed" in text
    left = gate.model_copy(update={"action": "attention"})
    assert "a person must decide" in Page(render(found.model_copy(update={"gate": left}))).text


def test_too_few_controls_for_any_rate_make_a_sentence_not_an_empty_table() -> None:
    def without(measured: Measurement) -> Measurement:
        return measured.model_copy(update={"tpr": []})

    base = report()
    assert base.parent is not None
    bare_of_rates = base.model_copy(update={"candidate": without(base.candidate), "parent": without(base.parent)})
    text = Page(render(bare_of_rates, without(RETRAINED))).text
    assert "there are too few never-trained samples (359) for any rate" in text
    assert "False alarms" not in text
    assert "False alarms" in Page(render(base)).text


def test_canaries_are_told_from_a_persons_samples_and_have_no_original() -> None:
    text = Page(render(planted())).text
    assert "144 forgotten canary samples" in text
    assert "Canaries are planted samples that are nobody's" in text
    assert "on the canaries that this version still knows it scores 0.742" in text
    assert "the canaries that this version still knows failed the same test" in text
    assert "Original" not in text
    assert "before unlearning" not in text
    blind = Page(render(planted(known=0.52))).text
    assert "the canaries that this version still knows were not seen to fail the same test" in blind
    along = Page(render(report().model_copy(update={"canaries": 45}))).text
    assert "The same job forgot 45 canary samples along" in along
    assert "Still known" not in along


def test_a_version_without_a_forget_set_is_no_statement_about_forgetting() -> None:
    none = bare().model_copy(update={"forget_samples": 0, "candidate": Measurement(accuracy_test=0.9)})
    text = Page(render(none)).text
    assert "measured without a forget set" in text
    assert "would have to tell" not in text


def test_the_label_of_a_whole_share_fits_on_its_panel() -> None:
    """Twelve-pixel digits are at most 7.5 wide: a label that ends at x needs so much room on its left."""
    panel = plots.confidence_plot("k", "t", [plots.Counts("candidate", "Unlearned", [0] * 19 + [5])], 1.0)
    x = next(float(found) for found in re.findall(r'x="([\d.]+)"[^>]*text-anchor="end"[^>]*>100%<', panel))
    assert x >= 4 * 7.5 + 6


def test_unknown_is_not_zero() -> None:
    page = Page(render(bare()))
    table = page.text.split("Results")[1].split("The test behind the verdict")[0]
    assert table.count("0.0 %") == 1  # the one accuracy that was measured, and is zero
    assert table.count("not measured") == 11
    assert "Retrained" not in table.split("AUC How")[0]
    assert page.text.count("not measured") > 20
    assert "None" not in page.text.replace("None: the method", "")
    assert "1 forgotten sample from samples" in page.text
    assert "could not be measured on this version" in page.text


def test_a_known_zero_is_not_unknown() -> None:
    found = Adversarial(attack="ffgsm", policy="precomputed", found=0, total=0, mean_norm=None)
    text = Page(render(report().model_copy(update={"adversarial": found}))).text
    assert "Found 0 of 0 Mean distance not measured" in text


def test_third_column_only_with_a_comparison() -> None:
    with_one, without = Page(render(report(), RETRAINED, "Same recipe.")), Page(render(report()))
    assert "Original Unlearned Retrained" in with_one.text
    assert "Retrained: Same recipe." in with_one.text
    assert "Retrained" not in without.text
    assert "No exact retrain was measured" in without.text


def test_hostile_strings_stay_text() -> None:
    made = render(hostile(), RETRAINED, HOSTILE)
    assert "<script" not in made
    assert "<img" not in made
    assert HOSTILE in Page(made).text


# -- plots ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.0, 1.0, 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.07, 0.26, 6, [-0.0, 0.1, 0.2]),
        (0.0, 0.043, 5, [0.0, 0.02, 0.04]),
        (-3.0, 12.0, 5, [0.0, 5.0, 10.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, most: int, expected: list[float]) -> None:
    assert svg.ticks(low, high, most) == expected


@pytest.mark.parametrize("width", [1e-6, 0.004, 0.3, 1.0, 7.7, 1e5])
@pytest.mark.parametrize("most", [3, 5, 6, 8])
def test_ticks_are_few_but_at_least_two(width: float, most: int) -> None:
    marks = svg.ticks(-0.37 * width, 0.63 * width, most)
    assert 1 <= len(marks) <= most
    assert all(-0.37 * width - 1e-12 <= mark <= 0.63 * width + 1e-12 for mark in marks)


def test_linear_scale() -> None:
    scale = svg.linear(-1.0, 3.0, 300.0, 100.0)
    assert [scale(-1.0), scale(1.0), scale(3.0)] == [300.0, 200.0, 100.0]


def test_interval_lies_where_the_scale_puts_it() -> None:
    drawn = plots.interval_plot([plots.Span("candidate", "Unlearned", 0.0, -0.1, 0.1)], 0.1, 0.5)
    page = Page(f"<div>{drawn}</div>")
    (band,) = [a for _, a in page.elements if a.get("class") == "band"]
    whisker = next(a for _, a in page.elements if a.get("class") == "whisker candidate")
    (dot,) = [a for _, a in page.elements if a.get("class") == "dot candidate"]
    assert float(band["x"] or 0) == float(whisker["x1"] or 0)
    assert float(band["x"] or 0) + float(band["width"] or 0) == pytest.approx(float(whisker["x2"] or 0), abs=0.02)
    middle = (float(whisker["x1"] or 0) + float(whisker["x2"] or 0)) / 2
    assert float(dot["cx"] or 0) == pytest.approx(middle, abs=0.02)


def test_roc_runs_from_corner_to_corner() -> None:
    drawn = plots.roc_plot([plots.Line("parent", "Original", [0, 0.5, 1], [0, 0.75, 1])])
    points = re.search(r'points="([^"]+)"', drawn)
    assert points is not None
    assert points[1] == "48.0,310.0 198.0,85.0 348.0,10.0"


def test_torn_roc_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        plots.roc_plot([plots.Line("parent", "Original", [0, 1], [0, 0.5, 1])])


def test_panels_share_one_scale_of_shares() -> None:
    page = Page(render(report()))
    bars = [a for name, a in page.elements if a.get("class") == "bar candidate" and "x" in a]
    assert len(bars) == 3 * BINS
    shown = report().candidate.confidence
    assert shown is not None
    heights = [float(bar["height"] or 0) for bar in bars]
    shares = [n / sum(bins) for bins in (shown.forget, shown.retain, shown.test) for n in bins]
    for height, share in zip(heights, shares, strict=True):
        assert height == pytest.approx(share * max(heights) / max(shares), abs=0.02)


def test_radii_are_in_order_and_the_missing_are_counted() -> None:
    text = Page(render(report())).text
    figure = text.split("Found, by attack radius")[1].split("Where it comes from")[0]
    assert re.findall(r"([\d.]+): (\d+)", figure)[:5] == [
        ("0.25", "31"),
        ("0.5", "58"),
        ("1.0", "40"),
        ("2.0", "8"),
        ("10.0", "4"),
    ]
    assert "not found: 3" in figure


# -- how numbers are written ------------------------------------------------------------------------


def test_numbers_are_written_honestly() -> None:
    assert percent(0.8742) == "87.4\u00a0%"
    assert decimal(-0.0001) == "0.000"
    assert signed(-0.0004) == "+0.000"
    assert signed(-0.0316) == "\u22120.032"
    assert p_value(0.0) == "below 1.0 × 10⁻³⁰⁰"
    assert p_value(0.00042) == "4.2 × 10⁻⁴"
    assert setting({"a": [1, None]}) == '{"a": [1, null]}'
    assert percent(None) == decimal(None) == p_value(None) == '<span class="none">not measured</span>'
