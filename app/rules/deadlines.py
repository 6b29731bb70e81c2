"""The law's clock: until when a request must be confirmed, answered, extended or refused.

A jurisdiction is a statute and, after a colon, where the controller acts, by ISO 3166 codes: `gdpr`,
`gdpr:DE`, `gdpr:DE-BY`, `uk-gdpr`, `uk-gdpr:GB-SCT`, `ccpa`. The place gives the public holidays and the time
zone in which the day of receipt is a day; bare `gdpr` has no holidays but week-ends, and its days are UTC's.

Times may be aware, or naive and then UTC as in the database; results are naive UTC, the last second in time.

A pause is the time in which the controller waits for what confirms the person's identity. It always has an end: the
answer, or the day until which the controller waits. What it does to the periods is the law's (`Law.pause`). A period
that has ended before the controller asked is over: a pause that begins later does not revive it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Literal
from zoneinfo import ZoneInfo

import holidays

DAY = timedelta(days=1)
LAST_SECOND = time(23, 59, 59)
HOLIDAYS = f"holidays-{version('holidays')}"

# -- days ------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def public_holidays(region: str, year: int) -> frozenset[date]:
    """The public holidays of a country (`DE`) or a part of it (`DE-BY`); none for the empty region.

    Frozen year by year: the library's own calendar fills itself on look-up, which threads must not share.
    """
    if not region:
        return frozenset()
    country, _, part = region.partition("-")
    return frozenset(holidays.country_holidays(country, subdiv=part or None, years=year))


def is_working_day(day: date, region: str) -> bool:
    """Regulation 1182/71 Art. 2(2): any day but public holidays, Sundays and Saturdays."""
    return day.weekday() < 5 and day not in public_holidays(region, day.year)


# -- periods: the day of receipt and a region give the last day ---------------------------------------

Period = Callable[[date, str, int], date]
"""The last day, of the day of receipt, the region and the days for which the clock stood still."""


def months(count: int, received: date, region: str, paused: int = 0) -> date:
    """The same-numbered day `count` months on, or that month's last day; then the next working day. A pause comes
    before the roll-over, so that there is never more than one.

    Regulation (EEC, Euratom) 1182/71 Art. 3(1), 3(2)(c) and 3(4). The period runs from the day of receipt,
    which is not counted in it (Court of Justice, C-171/03 Toeters, paragraphs 33 and 36). Art. 3(5), at least
    two working days in a period, holds in any month by itself.
    """
    year, month = divmod(received.year * 12 + received.month - 1 + count, 12)
    last = date(year, month + 1, min(received.day, calendar.monthrange(year, month + 1)[1])) + paused * DAY
    while not is_working_day(last, region):
        last += DAY
    return last


def calendar_days(count: int, received: date, region: str, paused: int = 0) -> date:  # noqa: ARG001
    """`count` days on, working days or not."""
    return received + (count + paused) * DAY


def business_days(count: int, received: date, region: str, paused: int = 0) -> date:  # noqa: ARG001
    """The `count`-th working day after the day of receipt."""
    day = received
    while count:
        day += DAY
        count -= is_working_day(day, region)
    return day


# -- laws ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """The periods of one statute, all from receipt. `zones`: its places; the empty one stands for `home`.

    since: the day from which it applies. pause: while identity is in doubt the clock `stops` (days are not counted),
    `restarts` (the periods begin on the day on which the information came), or `runs`.
    """

    name: str
    since: date
    pause: Literal["stops", "restarts", "runs"]
    rule: str
    answer: Period
    extended: Period
    refusal_once_extended: Period
    confirmation: Period | None
    home: str
    zones: Mapping[str, str]


ZONES = {
    "": "UTC",
    "AT": "Europe/Vienna", "BE": "Europe/Brussels", "BG": "Europe/Sofia", "CY": "Asia/Nicosia",
    "CZ": "Europe/Prague", "DE": "Europe/Berlin", "DK": "Europe/Copenhagen", "EE": "Europe/Tallinn",
    "ES": "Europe/Madrid", "FI": "Europe/Helsinki", "FR": "Europe/Paris", "GR": "Europe/Athens",
    "HR": "Europe/Zagreb", "HU": "Europe/Budapest", "IE": "Europe/Dublin", "IS": "Atlantic/Reykjavik",
    "IT": "Europe/Rome", "LI": "Europe/Vaduz", "LT": "Europe/Vilnius", "LU": "Europe/Luxembourg",
    "LV": "Europe/Riga", "MT": "Europe/Malta", "NL": "Europe/Amsterdam", "NO": "Europe/Oslo",
    "PL": "Europe/Warsaw", "PT": "Europe/Lisbon", "RO": "Europe/Bucharest", "SE": "Europe/Stockholm",
    "SI": "Europe/Ljubljana", "SK": "Europe/Bratislava",
    # parts whose day is not their capital's
    "ES-CN": "Atlantic/Canary", "PT-20": "Atlantic/Azores",
    "FR-971": "America/Guadeloupe", "FR-972": "America/Martinique", "FR-973": "America/Cayenne",
    "FR-974": "Indian/Reunion", "FR-976": "Indian/Mayotte", "FR-BL": "America/Guadeloupe",
    "FR-MF": "America/Guadeloupe", "FR-NC": "Pacific/Noumea", "FR-PF": "Pacific/Tahiti",
    "FR-PM": "America/Miquelon", "FR-TF": "Indian/Kerguelen", "FR-WF": "Pacific/Wallis",
}  # fmt: skip

GDPR = Law(
    name="the GDPR",
    since=date(2018, 5, 25),
    pause="stops",  # EDPB Guidelines 01/2022, paragraph 159, of Art. 12(6): suspended until the information has come
    rule="gdpr/1182-71/2026-11",
    answer=partial(months, 1),  # Art. 12(3)
    extended=partial(months, 3),  # two further months, and never two roll-overs
    refusal_once_extended=partial(months, 1),  # Art. 12(4) knows no extension
    confirmation=None,
    home="",
    zones=ZONES,
)
LAWS = {
    "gdpr": GDPR,
    # the Commissioner's guidance counts alike; Art. 12A(2): the period begins when the information asked for has come
    "uk-gdpr": replace(
        GDPR,
        name="the UK GDPR",
        since=date(2021, 1, 1),
        pause="restarts",
        rule="uk-gdpr/1182-71/2026-11",
        home="GB",
        zones=dict.fromkeys(("", "GB"), "Europe/London"),
    ),
    # California Code of Regulations, title 11, § 7021
    "ccpa": Law(
        name="the CCPA",
        since=date(2020, 1, 1),
        pause="runs",  # 7021(b): whatever time it takes to verify the request
        rule="ccpa/7021/2026-11",
        answer=partial(calendar_days, 45),
        extended=partial(calendar_days, 90),
        refusal_once_extended=partial(calendar_days, 90),  # a denial is one of the answers
        confirmation=partial(business_days, 10),
        home="US",
        zones={"": "America/Los_Angeles"},
    ),
}


# -- clocks ----------------------------------------------------------------------------------------


def utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Pause:
    """The wait for what confirms an identity: from the moment of asking to the answer, or to the end of the wait."""

    asked: datetime
    ended: datetime


@dataclass(frozen=True)
class Clock:
    """One law in one place. A `now` before `received`, of a clock set back, is merely early."""

    law: Law
    region: str
    zone: ZoneInfo

    @property
    def rule(self) -> str:
        """What computed a date, to be stored with it: the rule's version and the table of holidays."""
        return f"{self.law.rule}/{HOLIDAYS}" if self.region else self.law.rule

    def due(self, received: datetime, pause: Pause | None = None) -> datetime:
        """The answer, and the notice with reasons of an extension, are in time up to here."""
        return self._end(self.law.answer, received, pause)

    def extended(self, received: datetime, pause: Pause | None = None) -> datetime:
        """The due moment once extended, counted from receipt."""
        return self._end(self.law.extended, received, pause)

    def confirm_by(self, received: datetime) -> datetime | None:
        """Until when receipt must be confirmed; None where the law asks no confirmation. No pause moves it."""
        return self._end(self.law.confirmation, received, None) if self.law.confirmation else None

    def may_extend(self, received: datetime, now: datetime, pause: Pause | None = None) -> bool:
        """Whether a notice of extension is still in time. That it is the first one is the caller's to know."""
        return utc(now) <= utc(self.due(received, pause))

    def may_refuse(
        self, received: datetime, now: datetime, *, extended: bool = False, pause: Pause | None = None
    ) -> bool:
        """Whether a refusal is still in time. `extended`: the request's due moment has been extended."""
        period = self.law.refusal_once_extended if extended else self.law.answer
        return utc(now) <= utc(self._end(period, received, pause))

    def day(self, moment: datetime) -> date:
        """The local day of a moment."""
        return utc(moment).astimezone(self.zone).date()

    def start_of(self, day: date) -> datetime:
        """The first moment of a local day."""
        return datetime.combine(day, time(), self.zone).astimezone(UTC).replace(tzinfo=None)

    def end_of(self, day: date) -> datetime:
        """The last second of a local day."""
        return datetime.combine(day, LAST_SECOND, self.zone).astimezone(UTC).replace(tzinfo=None)

    def refused_receipt(self, received: datetime, now: datetime) -> tuple[str, str] | None:
        """Why a request cannot have been received then: the kind of the problem, and words; None where it can."""
        if utc(received) > utc(now):
            return "received-in-future", "A request cannot be received in the future."
        if self.day(received) < self.law.since:
            since = f"{self.law.since:%Y-%m-%d}"
            return "received-before-law", f"Nothing can be requested under {self.law.name} before {since}."
        return None

    def _end(self, period: Period, received: datetime, pause: Pause | None) -> datetime:
        day = self.day(received)
        plain = self.end_of(period(day, self.region, 0))
        if pause is None or utc(pause.asked) > utc(plain) or self.law.pause == "runs":
            return plain
        if self.law.pause == "restarts":
            return self.end_of(period(max(day, self.day(pause.ended)), self.region, 0))
        paused = max(0, (self.day(pause.ended) - self.day(pause.asked)).days)
        return self.end_of(period(day, self.region, paused))


JURISDICTION = re.compile(r"([a-z-]+)(?::([A-Z]{2})(?:-(\w+))?)?", re.ASCII)


@lru_cache(maxsize=1024)
def clock(jurisdiction: str) -> Clock:
    """The clock of a jurisdiction; ValueError where there is none."""
    match = JURISDICTION.fullmatch(jurisdiction)
    name, country, part = match.groups(default="") if match else ("", "", "")
    law = LAWS.get(name)
    if law is None:
        raise ValueError(f"A jurisdiction is one of {', '.join(LAWS)}, or names a place as gdpr:DE-BY does.")
    if country not in law.zones:
        places = ", ".join(place for place in law.zones if len(place) == 2)
        raise ValueError(f"The places of {name} are {places}." if places else f"{name} takes no place.")
    if part and part not in (parts := holidays.country_holidays(country).subdivisions):
        raise ValueError(f"The parts of {country} are {', '.join(parts) or 'not distinguished'}.")
    region = f"{country}-{part}" if part else country
    return Clock(law, region or law.home, ZoneInfo(law.zones.get(region, law.zones[country])))


def known(jurisdiction: str) -> bool:
    """Whether `clock` takes it."""
    try:
        clock(jurisdiction)
    except ValueError:
        return False
    return True
