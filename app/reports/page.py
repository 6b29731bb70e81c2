"""The audit report as one self-contained HTML page: no script, no external request, no sample.

The page shows what `app.formats.audit_report.AuditReport` holds and nothing else; what was not measured says so.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.formats.audit_report import Adversarial, Auc, AuditReport, GateDecision, Judgement, Measurement
from app.reports import plots
from app.reports.numbers import NOT_MEASURED, decimal, p_value, percent, setting, signed, span, true_minus

Situation = Literal[
    "pass",
    "remembered",
    "over-forgotten",
    "no-test",
    "too-uncertain",
    "no-signal",
    "no-longer-comparable",
    "judged-again",
    "several-candidates",
]
HEADLINES: dict[Situation, str] = {
    "pass": "The forgotten samples look like samples the model never saw, within the margin",
    "remembered": "The model still remembers the forgotten samples",
    "over-forgotten": "The forgotten samples stand out as unlike unseen data",
    "no-test": "No valid test could be made",
    "too-uncertain": "The measurement is too uncertain to decide",
    "no-signal": "There was no clear signal to remove, so its absence shows little",
    "no-longer-comparable": "The model changed too much for its score to count",
    "several-candidates": "Among several candidates it is too uncertain to decide",
    "judged-again": "It was judged again after a fail, and that cannot count as a pass",
}
NOTHING_TO_DO = "Nothing about this model. Tell the people whose requests it carries out, and keep their certificates."
SETS = {"forget": "Forgotten", "retain": "Retained", "test": "Test"}


class Column(NamedTuple):
    """One model of the comparison; `measured` is None where nothing is known of it."""

    series: str
    label: str
    measured: Measurement | None


class Covered(NamedTuple):
    """A request that the version carries out, and the digest of its newest certificate."""

    request: str
    certificate: str | None


class Panel(NamedTuple):
    """One set of the confidence histograms: its plot, and per model the counts behind it."""

    label: str
    plot: Markup
    models: list[plots.Counts]


def render(
    report: AuditReport,
    comparison: Measurement | None = None,
    comparison_note: str = "",
    name: str = "",
    covered: Sequence[Covered] = (),
    back: str = "",
) -> str:
    """The report as an HTML page.

    Args:
        report: what the audit measured and judged.
        comparison: an exact retrain measured on the same forget set, shown as a third column.
        comparison_note: what the comparison is and where it comes from, one sentence.
        name: what the model is called; its id alone where that is not known.
        covered: the requests that it carries out.
        back: where the reader came from; empty where the page is kept as a file.

    Raises:
        ValueError: the two lists of a ROC curve differ in length.
    """
    columns = [
        Column(
            "parent", *(("Original", report.parent) if report.of == "forget-set" else ("Still known", report.control))
        ),
        Column("candidate", "Unlearned" if report.of == "forget-set" else "Forgotten", report.candidate),
    ]
    if comparison is not None:
        columns.append(Column("retrained", "Retrained", comparison))
    return ENVIRONMENT.get_template("report.html.j2").render(
        report=report,
        next_steps=report.next_steps or ([NOTHING_TO_DO] if report.forget_samples and not report.sham else []),
        name=name,
        covered=covered,
        back=back,
        judgement=report.judgement,
        columns=columns,
        comparison_note=comparison_note,
        situation=(found := situation(report.judgement, report.gate)),
        headline=HEADLINES[found],
        interval_plot=_interval_plot(report.judgement, columns),
        roc_plot=_roc_plot(columns),
        panels=_panels(columns),
        radius_plot=_radius_plot(report.adversarial),
    )


def situation(judgement: Judgement, gate: GateDecision | None = None) -> Situation:
    """Why the verdict is what it is, in the order in which `engine.audits.rule.judge` decides."""
    interval, margin = judgement.interval, judgement.margin
    if judgement.verdict == "pass":
        return "pass"
    if judgement.verdict == "fail":
        return "over-forgotten" if interval is not None and interval.high < -margin else "remembered"
    if interval is None:
        return "no-test"
    if interval.low < -margin or interval.high > margin:
        return "too-uncertain"
    if " candidates, " in judgement.reason and judgement.candidates > 1:
        return "several-candidates"
    if not judgement.parent_failed:
        return "no-signal"
    return "judged-again" if gate is not None and gate.rejudged else "no-longer-comparable"


# -- plots -----------------------------------------------------------------------------------------


def _interval_plot(judgement: Judgement, columns: list[Column]) -> Markup | None:
    if judgement.difference is None or judgement.interval is None or judgement.null is None:
        return None
    null, spans = judgement.null, []
    for column in columns:
        if column.series == "candidate":
            low, high = judgement.interval.low, judgement.interval.high
            spans.append(plots.Span(column.series, column.label, judgement.difference, low, high))
        elif column.measured is not None and (auc := _judged(judgement, column.measured)) is not None:
            bound = judgement.null_bound or 0.0
            ends = (auc.value - null, auc.interval.low - null - bound, auc.interval.high - null + bound)
            spans.append(plots.Span(column.series, column.label, *ends))
    return plots.interval_plot(spans, judgement.margin, null)


def _judged(judgement: Judgement, measured: Measurement) -> Auc | None:
    """The FT-AUC that the verdict's null belongs to."""
    return measured.matched_ft_auc if judgement.null_source == "same_classes" else measured.ft_auc


def _roc_plot(columns: list[Column]) -> Markup | None:
    lines = [
        plots.Line(column.series, column.label, curve.fpr, curve.tpr)
        for column in columns
        if column.measured is not None and (curve := column.measured.roc_ft) is not None
    ]
    return plots.roc_plot(lines) if lines else None


def _panels(columns: list[Column]) -> list[Panel]:
    """A panel for each set that any model was measured on, all on one scale of shares."""
    sets: dict[str, list[plots.Counts]] = {}
    for column in columns:
        if column.measured is None or column.measured.confidence is None:
            continue
        for key in SETS:
            counts: list[int] = getattr(column.measured.confidence, key)
            if sum(counts):
                sets.setdefault(key, []).append(plots.Counts(column.series, column.label, counts))
    top = max((max(m.counts) / sum(m.counts) for models in sets.values() for m in models), default=1.0)
    return [
        Panel(
            label,
            plots.confidence_plot(key, f"Confidence on {label.lower()} samples", sets[key], top),
            sets[key],
        )
        for key, label in SETS.items()
        if key in sets
    ]


def _radius_plot(adversarial: Adversarial | None) -> Markup | None:
    if adversarial is None or not adversarial.radius_counts:
        return None
    # A database's JSON type may reorder keys, so the order of the radii is restored here.
    ordered = dict(sorted(adversarial.radius_counts.items(), key=lambda item: _radius(item[0])))
    return plots.radius_plot(ordered, adversarial.total - adversarial.found)


def _radius(key: str) -> tuple[float, str]:
    try:
        return float(key), key
    except ValueError:
        return float("inf"), key


# -- the template ---------------------------------------------------------------------------------


def aucs(measured: Measurement) -> Mapping[str, Auc | None]:
    return {"FT-AUC": measured.ft_auc, "FR-AUC": measured.fr_auc, "RT-AUC": measured.rt_auc}


def csp_hash(style: str) -> str:
    """The source expression by which a content security policy admits exactly this style sheet."""
    return "sha256-" + b64encode(sha256(style.encode()).digest()).decode()


def _shown(value: object) -> object:
    """Whatever the page writes, with true minus signs; the markup of plots has its own."""
    return true_minus(str(value)) if isinstance(value, str | int | float) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, decimal, signed, span, p_value, setting, aucs, csp_hash)
    environment.filters.update({function.__name__: function for function in filters})
    environment.globals["unmeasured"] = NOT_MEASURED
    return environment


ENVIRONMENT = _environment()
