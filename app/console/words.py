"""How pages write times, numbers and states: in the reader's zone, in words, every text of a client's inert."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup

from app.reports.numbers import MINUS
from app.reports.svg import tag
from app.rules import deadlines

STATUSES = {
    "accepted": "Accepted",
    "processing": "In progress",
    "published": "Model replaced",
    "fulfilled": "Fulfilled",
    "incomplete": "Incomplete",
    "needs-attention": "Needs attention",
    "held": "On hold",
    "refused": "Refused",
    "cancelled": "Cancelled",
    "queued": "Waiting",
    "running": "Running",
    "succeeded": "Succeeded",
    "rejected": "Rejected",
    "failed": "Failed",
    "dead": "Given up",
    "pending": "Waiting",
    "batched": "In progress",
    "purged": "Erased",
    "attention": "Needs attention",
    "current": "Current",
    "candidate": "Candidate",
    "comparison": "Only to compare",
    "superseded": "Superseded",
    "ready": "Ready",
    "ingesting": "Being taken in",
    "awaiting-content": "Waits for its content",
    "erased": "Erased",
    "delivered": "Delivered",
    "pass": "Pass",
    "fail": "Fail",
    "inconclusive": "Inconclusive",
}
TONES = {
    **dict.fromkeys(("fulfilled", "succeeded", "pass", "ready", "current", "delivered", "published"), "good"),
    **dict.fromkeys(("needs-attention", "attention", "failed", "dead", "fail", "rejected"), "bad"),
    **dict.fromkeys(("held", "inconclusive", "incomplete", "candidate", "awaiting-content"), "wait"),
    **dict.fromkeys(("processing", "running", "batched", "ingesting"), "live"),
}
KINDS = {
    "ingest": "Take in a dataset",
    "train": "Train",
    "import": "Import a checkpoint",
    "references": "Train reference models",
    "reference": "Train one reference model",
    "precompute": "Precompute adversarial examples",
    "unlearn": "Unlearn",
    "audit": "Audit",
    "purge": "Erase",
}
COPIES = {
    "superseded-checkpoint": "An earlier version of the model",
    "reference-pool": "Reference models that embed the samples",
    "database": "Earlier forms of erased rows in the database's files",
}
LAWS = {"gdpr": "GDPR", "uk-gdpr": "UK GDPR", "ccpa": "CCPA"}
LONG = 240  # letters, above which a text may scroll by itself
STEERING = re.compile("[\u0000-\u001f\u007f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def text(value: Any) -> Markup:
    """A client's own text: whatever direction its letters have, they do not reach beyond it."""
    said = "" if value is None else str(value)
    return tag("bdi", said, class_="long") if len(said) > LONG else tag("bdi", said)


def plain(value: Any, most: int = 80) -> str:
    """The same for places that take no markup, such as the title of a tab: short, and without steering characters."""
    found = STEERING.sub("", str(value))
    return found if len(found) <= most else found[: most - 1] + "…"


def prose(value: Any) -> Markup:
    """The service's own sentences: what stands between backticks is code. Texts of clients in them are inert."""
    parts = str(value).split("`")
    if len(parts) % 2 == 0:  # one that is not closed
        return text(value)
    return tag("bdi", Markup("").join(tag("code", part) if n % 2 else part for n, part in enumerate(parts)))


def copy(receipt: dict[str, Any]) -> str:
    """What a receipt is about, for people."""
    return COPIES.get(receipt["subject"], str(receipt["subject"]).replace("-", " ").capitalize())


def status(value: str) -> Markup:
    """A state as a word with a mark of its own, so that colour is not needed to tell it."""
    return Markup('<span class="state {}">{}</span>').format(TONES.get(value, "calm"), state_word(value))


def tone_mark(tone: str, said: str) -> Markup:
    """Words with the mark of a good or a bad state."""
    return Markup('<span class="state {}">{}</span>').format(tone, said)


def state_word(value: str) -> str:
    return STATUSES.get(value) or value.replace("-", " ").capitalize()


def kind(value: str) -> str:
    return KINDS.get(value, value)


def law(value: str) -> str:
    """`gdpr:DE-BY` as `GDPR (DE-BY)`."""
    name, _, place = value.partition(":")
    return LAWS.get(name, name) + (f" ({place})" if place else "")


def number(value: float | None) -> str:
    """With thin groups of thousands and a true minus sign."""
    return "" if value is None else f"{value:,}".replace(",", "\u202f").replace("-", MINUS)


def points(value: float) -> str:
    """A difference of two shares, in points of a hundred, with its sign."""
    return f"{round(value, 1) + 0.0:+.1f} points".replace("-", MINUS)


def count(value: float, noun: str, many: str = "") -> str:
    return f"{number(value)} {noun if value == 1 else many or noun + 's'}"


def size(value: int) -> str:
    """Bytes, to three digits."""
    amount, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """The two largest units: `2 h 5 min`."""
    if seconds is None:
        return ""
    left = round(seconds)
    parts: list[str] = []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def parse(moment: str | datetime) -> datetime:
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment.replace(tzinfo=moment.tzinfo or UTC)


class Clock:
    """The reader's zone, and the moment at which the page is made."""

    def __init__(self, zone: str) -> None:
        self.zone = _zone(zone)
        self.now = datetime.now(UTC)

    @property
    def name(self) -> str:
        return str(self.zone)

    def local(self, moment: str | datetime, law: str = "") -> datetime:
        """law: a jurisdiction, whose days begin and end where the controller acts."""
        return parse(moment).astimezone(_law_zone(law) or self.zone)

    def time(self, moment: str | datetime | None) -> Markup:
        """Day and minute, with the zone named."""
        return self._element(moment, "%-d %b %Y, %H:%M %Z")

    def day(self, moment: str | datetime | None, law: str = "") -> Markup:
        """The day for the reader; of a date that a law sets, its day where the controller acts, as letters name it."""
        return self._element(moment, "%-d %b %Y", law)

    def _element(self, moment: str | datetime | None, form: str, law: str = "") -> Markup:
        if moment is None:
            return Markup("")
        exact = parse(moment).astimezone(UTC)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            f"{exact:%Y-%m-%dT%H:%M:%SZ}",
            f"{exact:%Y-%m-%d %H:%M:%S} UTC",
            self.local(moment, law).strftime(form),
        )

    def days_until(self, moment: str | datetime, law: str = "") -> int:
        """Calendar days of the reader, or of the law; negative once it is over."""
        days = (self.local(moment, law).date() - self.local(self.now, law).date()).days
        return days if days or parse(moment) >= self.now else -1

    def left(self, moment: str | datetime, law: str = "") -> Markup:
        days = self.days_until(moment, law)
        if days < 0:
            said, tone = f"{count(-days, 'day')} late", "bad"
        elif days == 0:
            said, tone = "due today", "bad"
        else:
            said, tone = f"{count(days, 'day')} left", "wait" if days <= 7 else "calm"
        return Markup('<span class="left {}">{}</span>').format(tone, said)

    @staticmethod
    def seconds(start: str | datetime, end: str | datetime) -> float:
        return (parse(end) - parse(start)).total_seconds()


def _law_zone(jurisdiction: str) -> ZoneInfo | None:
    try:
        return deadlines.clock(jurisdiction).zone if jurisdiction else None
    except ValueError:  # a law of a later version, or none
        return None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, KeyError):  # no zone at all, or none that this machine knows
        return ZoneInfo("UTC")


LABELS = {
    "dataset": "Dataset",
    "subjects": "Who or what",
    "sample_ids": "Who or what",
    "jurisdiction": "Law, and where you act",
    "received_at": "Received on",
    "received_reason": "Why it is entered later",
    "reference": "Your reference",
    "channel": "How it came",
    "ground": "Legal ground",
    "basis": "The same in your register's words",
    "model": "Model",
    "allow_data_loss": "A model may lose its last sample of a class",
    "name": "Name",
    "input": "Input contract",
    "controller": "Controller, as letters name you",
    "contact": "Where people can write to",
    "authority": "Supervisory authority that takes complaints",
    "language": "Language of letters",
    "keep_months": "References and letters are kept for months",
    "max_requests": "Batch closes on requests",
    "max_age_seconds": "and after days",
    "utility_floor": "Accuracy may fall by",
    "canaries": "Canaries of a job",
    "grace_seconds": "Keep old versions",
    "subject": "Subject",
    "body": "Text",
}
"""Of the API's fields, as forms call them."""


def labelled(value: Any) -> str:
    """The service's own sentence, with its fields as forms call them."""
    return re.sub(r"`(\w+)`", lambda found: f"“{LABELS[found[1]]}”" if found[1] in LABELS else found[0], str(value))


def place(pointer: str) -> str:
    """Where a fault is: the field as forms call it, and the line of a list."""
    names = str(pointer).strip("/").split("/")
    found = [f"line {int(name) + 1}" if name.isdigit() else LABELS.get(name, name.replace("_", " ")) for name in names]
    return ", ".join(found)


def problem_lines(problem: dict[str, Any]) -> list[str]:
    """Further facts of a refusal, a line each."""
    found = []
    for each in problem.get("errors", [])[:20]:
        where = place(each.get("pointer", ""))
        found.append(f"{where}: {_fact(each)}" if where else _fact(each))
    return found


def _fact(fault: dict[str, Any]) -> str:
    return labelled(fault.get("detail") or fault.get("code", ""))
