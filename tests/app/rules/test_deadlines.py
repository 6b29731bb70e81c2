"""The law's clock against worked cases, and against a slow calendar that is built another way."""

import random
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache

import holidays
import pytest
from dateutil.relativedelta import MO, SU, TH, relativedelta

from app.rules.deadlines import ZONES, Pause, clock, known

SECOND = timedelta(seconds=1)
NOON = "T12:00:00"


def at(text):
    return datetime.fromisoformat(text)


def midnight(day):
    return at(day.isoformat())


def last_day(jurisdiction, received, period="due"):
    """The local day on which the period ends, of a receipt at noon UTC."""
    made = clock(jurisdiction)
    moment = getattr(made, period)(at(received + NOON)).replace(tzinfo=UTC).astimezone(made.zone)
    assert moment.time().isoformat() == "23:59:59"
    return moment.date().isoformat()


# -- the texts' cases ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "last"),
    [
        ("2026-03-05", "2026-04-07"),  # 5 April is Easter Sunday, Monday a holiday
        ("2027-03-05", "2027-04-05"),  # EDPB Guidelines 01/2022: 5 March, 5 April
        ("2026-08-31", "2026-09-30"),  # the same: no 31 September
        ("2027-01-31", "2027-03-01"),  # 28 February 2027 is a Sunday
        ("2028-01-31", "2028-02-29"),
        ("2028-01-30", "2028-02-29"),
        ("2028-02-29", "2028-03-29"),
        ("2026-02-28", "2026-03-30"),  # the 28th, not the month's last; a Saturday
        ("2026-03-03", "2026-04-07"),  # Good Friday, week-end, Easter Monday
        ("2026-11-25", "2026-12-28"),  # Christmas on a Friday
        ("2026-12-01", "2027-01-04"),  # New Year on a Friday, into the next year
        ("2026-10-15", "2026-11-16"),
    ],
)
def test_a_month_in_germany(received, last):
    assert last_day("gdpr:DE", received) == last


@pytest.mark.parametrize(
    ("jurisdiction", "received", "last"),
    [
        ("gdpr", "2026-03-05", "2026-04-06"),  # bare: Easter Monday is a Monday
        ("gdpr", "2026-11-25", "2026-12-25"),
        ("gdpr:FR", "2026-03-03", "2026-04-03"),  # Good Friday is a working day, but not in Moselle
        ("gdpr:FR-57", "2026-03-03", "2026-04-07"),
        ("gdpr:FR", "2026-06-14", "2026-07-15"),
        ("gdpr:DE", "2026-12-06", "2027-01-06"),  # Epiphany, in Bavaria
        ("gdpr:DE-BY", "2026-12-06", "2027-01-07"),
        ("gdpr:GR", "2026-03-10", "2026-04-14"),  # the Orthodox Easter: 10 and 13 April
        ("uk-gdpr", "2026-09-03", "2026-10-05"),  # the Commissioner's 3 September, 3 October: a Saturday
        ("uk-gdpr", "2026-11-25", "2026-12-29"),  # Boxing Day observed on Monday 28
        ("uk-gdpr", "2026-07-31", "2026-08-31"),  # the summer holiday is not all the kingdom's
        ("uk-gdpr:GB-ENG", "2026-07-31", "2026-09-01"),
    ],
)
def test_a_month_elsewhere(jurisdiction, received, last):
    assert last_day(jurisdiction, received) == last


@pytest.mark.parametrize(
    ("jurisdiction", "received", "last"),
    [
        ("gdpr:DE", "2027-01-31", "2027-04-30"),  # from receipt, not from 1 March, where the month rolled to
        ("gdpr:DE", "2026-02-01", "2026-05-04"),  # 1 May, then a week-end
        ("gdpr", "2027-11-30", "2028-02-29"),
        ("ccpa", "2026-11-20", "2027-02-18"),
    ],
)
def test_an_extension_is_counted_from_receipt(jurisdiction, received, last):
    assert last_day(jurisdiction, received, "extended") == last


def test_california_counts_days_and_rolls_nothing_over():
    assert last_day("ccpa", "2026-11-19") == "2027-01-03"  # a Sunday
    assert last_day("ccpa", "2026-11-20", "confirm_by") == "2026-12-07"  # Thanksgiving is no business day
    assert last_day("ccpa", "2026-11-21", "confirm_by") == "2026-12-07"  # nor is Saturday, the day of receipt
    assert last_day("ccpa", "2026-06-19", "confirm_by") == "2026-07-06"  # Independence Day observed on the 3rd


@pytest.mark.parametrize("jurisdiction", ["gdpr", "gdpr:DE", "uk-gdpr"])
def test_only_california_asks_for_a_confirmation(jurisdiction):
    assert clock(jurisdiction).confirm_by(at("2026-11-20T12:00")) is None


# -- time zones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jurisdiction", "received", "moment"),
    [
        ("gdpr", "2026-03-31T23:59:59", "2026-04-30T23:59:59"),
        ("gdpr:DE", "2026-03-31T22:30", "2026-05-04T21:59:59"),  # 1 April in Berlin; 1 May is a Friday
        ("gdpr:DE", "2026-03-26T22:59:59", "2026-04-27T21:59:59"),  # winter time then, summer time at the end
        ("gdpr:DE", "2026-03-29T22:00", "2026-04-30T21:59:59"),  # summer time since that morning: the 30th
        ("gdpr:DE", "2026-09-25T12:00", "2026-10-26T22:59:59"),  # the day after summer time ended
        ("gdpr:PT", "2026-01-05T00:30", "2026-02-05T23:59:59"),
        ("gdpr:PT-20", "2026-01-05T00:30", "2026-02-05T00:59:59"),  # still the 4th on the Azores
        ("gdpr:FR-974", "2026-06-02T20:30", "2026-07-03T19:59:59"),  # already the 3rd on La Réunion
        ("ccpa", "2026-11-20T05:00", "2027-01-04T07:59:59"),  # 19 November in California
        ("ccpa", "2026-02-20T20:00", "2026-04-07T06:59:59"),
    ],
)
def test_the_day_of_receipt_and_the_last_hour_are_local(jurisdiction, received, moment):
    assert clock(jurisdiction).due(at(received)) == at(moment)


def test_an_aware_time_is_the_same_instant():
    tokyo = datetime(2026, 4, 1, 7, 30, tzinfo=timezone(timedelta(hours=9)))
    assert clock("gdpr:DE").due(tokyo) == clock("gdpr:DE").due(at("2026-03-31T22:30"))
    assert clock("gdpr:DE").due(tokyo).tzinfo is None
    assert clock("gdpr:DE").may_extend(tokyo, tokyo)


# -- what is still in time -------------------------------------------------------------------------


@pytest.mark.parametrize("jurisdiction", ["gdpr", "gdpr:DE-BY", "uk-gdpr:GB-SCT", "ccpa"])
def test_extension_and_refusal_end_with_the_first_period(jurisdiction):
    made, received = clock(jurisdiction), at("2026-11-20T12:00")
    end = made.due(received)
    for asks in (made.may_extend, made.may_refuse):
        assert asks(received, end)
        assert not asks(received, end + SECOND)
        assert asks(received, received - timedelta(days=400))  # a clock set back


def test_only_californias_refusal_moves_with_the_extension():
    received, later = at("2026-11-20T12:00"), at("2027-01-20T12:00")
    assert not clock("gdpr:DE").may_refuse(received, later, extended=True)
    assert clock("ccpa").may_refuse(received, later, extended=True)
    assert not clock("ccpa").may_refuse(received, clock("ccpa").extended(received) + SECOND, extended=True)


# -- names -----------------------------------------------------------------------------------------

MEMBERS = sorted(place for place in ZONES if len(place) == 2)
PARTS = holidays.list_supported_countries(include_aliases=False)


@pytest.mark.parametrize("country", MEMBERS)
def test_every_country_and_part_has_a_clock(country):
    received = at("2026-11-25T12:00")
    for text in (f"gdpr:{country}", *(f"gdpr:{country}-{part}" for part in PARTS[country])):
        # Christmas is kept everywhere.
        assert at("2026-12-28T00:00") < clock(text).due(received) < at("2026-12-31T00:00")
        assert len(text) <= 20
    assert set(ZONES) - set(MEMBERS) - {""} <= {f"{c}-{part}" for c in MEMBERS for part in PARTS[c]}


@pytest.mark.parametrize(
    "text",
    [
        "", "GDPR", "gdpr ", "gdpr:", "gdpr:DE-", "gdpr:de", "gdpr:US", "gdpr:GB", "gdpr:DE-XX", "gdpr:DE-Bavaria",
        "gdpr:IE-D", "gdpr:-BY", "gdpr:DE:BY", "gdpr:DE-BY\n", "uk-gdpr:DE", "uk-gdpr:GB-XX", "ccpa:US",
        "ccpa:US-CA", "lgpd", "ddd:DE",
    ],
)  # fmt: skip
def test_an_unknown_jurisdiction_is_refused(text):
    assert not known(text)
    with pytest.raises(ValueError, match=r"[Jj]urisdiction|place|parts of"):
        clock(text)


def test_the_rule_names_its_version_and_its_holidays():
    assert known("gdpr")
    assert clock("gdpr").rule == "gdpr/1182-71/2026-11"
    assert clock("gdpr:DE").rule == f"gdpr/1182-71/2026-11/holidays-{holidays.__version__}"
    assert clock("uk-gdpr").rule.startswith("uk-gdpr/1182-71/2026-11/holidays-")
    assert clock("ccpa").rule.startswith("ccpa/7021/2026-11/holidays-")


# -- the oracle: walks over single days, its own feasts, its own summer time ----------------------------


def easter(year):
    """Western Easter Sunday (the anonymous Gregorian computus, Nature 1876)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    el = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * el) // 451
    month, day = divmod(h + el - 7 * m + 114, 31)
    return date(year, month, day + 1)


FEASTS = {  # fixed days (month, day), and days from Easter Sunday
    "gdpr": ([], []),
    "gdpr:DE": ([(1, 1), (5, 1), (10, 3), (12, 25), (12, 26)], [-2, 1, 39, 50]),
    "gdpr:DE-BY": ([(1, 1), (1, 6), (5, 1), (10, 3), (11, 1), (12, 25), (12, 26)], [-2, 1, 39, 50, 60]),
    "gdpr:FR": ([(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)], [1, 39, 50]),
}


@cache
def days_off(jurisdiction, year):
    if jurisdiction == "ccpa":
        return federal_days(year)
    if jurisdiction == "uk-gdpr":
        return bank_holidays(year)
    fixed, moving = FEASTS[jurisdiction]
    return {date(year, *day) for day in fixed} | {easter(year) + timedelta(days=shift) for shift in moving}


def bank_holidays(year):
    """What all parts of the kingdom keep since 2024; of a week-end's, the next working days instead."""
    found = {date(year, 5, 1) + relativedelta(weekday=MO(1)), date(year, 5, 31) + relativedelta(weekday=MO(-1))}
    found |= {easter(year) - timedelta(days=2)}
    for day in (date(year, 1, 1), date(year, 12, 25), date(year, 12, 26)):
        while day.isoweekday() > 5 or day in found:
            day += timedelta(days=1)
        found.add(day)
    return found


def federal_days(year):
    """5 U.S.C. 6103; those on a Saturday are kept on Friday, on a Sunday on Monday, also across New Year."""

    def nth(month, weekday, start=1):
        return date(year, month, start) + relativedelta(weekday=weekday)

    monday = MO(1)
    found = {nth(1, monday, 15), nth(2, monday, 15), nth(5, MO(-1), 31), nth(9, monday), nth(10, monday, 8)}
    found |= {nth(11, TH(4))}
    fixed = [date(y, m, d) for y in (year, year + 1) for m, d in [(1, 1), (6, 19), (7, 4), (11, 11), (12, 25)]]
    for day in fixed:
        if (day.month, day.day) == (6, 19) and day.year < 2021:
            continue
        kept = day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))
        found |= {one for one in (day, kept) if one.year == year}
    return found


NEVER = at("9999-01-01")


def is_off(jurisdiction, day):
    return day.isoweekday() in (6, 7) or day in days_off(jurisdiction, day.year)


@cache
def summer(jurisdiction, year):
    """Hours east of Greenwich in winter, and the instants (UTC) between which it is one more."""
    if jurisdiction == "gdpr":
        return 0, NEVER, NEVER
    first, last = midnight(date(year, 3, 1)), midnight(date(year, 10, 31))
    if jurisdiction == "ccpa":  # at two o'clock of the second Sunday of March to the first of November
        return (
            -8,
            first + relativedelta(weekday=SU(2), hour=10),
            last + relativedelta(days=1, weekday=SU(1), hour=9),
        )
    hours = 0 if jurisdiction == "uk-gdpr" else 1
    return hours, first + relativedelta(day=31, weekday=SU(-1), hour=1), last + relativedelta(weekday=SU(-1), hour=1)


def shift_at(jurisdiction, moment):
    hours, start, end = summer(jurisdiction, moment.year)
    return timedelta(hours=hours + (start <= moment < end))


def closing(jurisdiction, day):
    """The last second of a local day, in UTC: the only one whose own shift leads back to it."""
    local = midnight(day) + timedelta(seconds=86399)
    guesses = {local - timedelta(hours=hours) for hours in (-8, -7, 0, 1, 2)}
    (found,) = [guess for guess in guesses if guess + shift_at(jurisdiction, guess) == local]
    return found


def walk_months(jurisdiction, day, count, paused=0):
    """Day by day: the `count`-th time that the receipt's number comes, or a month ends without it; then those for which
    the clock stood still."""
    number = day.day
    while count:
        day += timedelta(days=1)
        count -= day.day == number or (day.day < number and (day + timedelta(days=1)).day == 1)
    for _ in range(paused):
        day += timedelta(days=1)
    while is_off(jurisdiction, day):
        day += timedelta(days=1)
    return day


def oracle(jurisdiction, received):
    """(due, extended, confirm_by) in UTC."""
    day = (received + shift_at(jurisdiction, received)).date()
    if jurisdiction != "ccpa":
        return *(closing(jurisdiction, walk_months(jurisdiction, day, count)) for count in (1, 3)), None
    open_days = (d for n in range(1, 40) if not is_off("ccpa", d := day + timedelta(days=n)))
    tenth = [next(open_days) for _ in range(10)][-1]
    ends = date.fromordinal(day.toordinal() + 45), date.fromordinal(day.toordinal() + 90), tenth
    return tuple(closing("ccpa", end) for end in ends)


@pytest.mark.parametrize("jurisdiction", [*FEASTS, "ccpa"])
def test_ten_thousand_receipts_agree_with_the_oracle(jurisdiction):
    start, span = at("2018-05-25"), 42 * 365 * 86400
    draw = random.Random(jurisdiction)
    receipts = sorted(start + timedelta(seconds=draw.randrange(span)) for _ in range(10_000))
    made = clock(jurisdiction)
    found = [(made.due(r), made.extended(r), made.confirm_by(r)) for r in receipts]
    assert found == [oracle(jurisdiction, r) for r in receipts]
    for moments in ([row[0] for row in found], [row[1] for row in found]):
        assert moments == sorted(moments)  # who asked first is due first


# -- pauses ----------------------------------------------------------------------------------------


def paused_oracle(jurisdiction, received, asked, ended):
    """(due, extended) in UTC, of a wait for a proof of identity; what ended before it began is not moved by it."""
    plain = oracle(jurisdiction, received)
    if jurisdiction == "ccpa":
        return plain[:2]
    came, wrote, shown = ((moment + shift_at(jurisdiction, moment)).date() for moment in (received, asked, ended))
    found = []
    for end, count in zip(plain, (1, 3), strict=False):
        if asked > end:
            found.append(end)
        elif jurisdiction == "uk-gdpr":
            found.append(closing(jurisdiction, walk_months(jurisdiction, max(came, shown), count)))
        else:
            still = sum(1 for _ in walk_days(wrote, shown))
            found.append(closing(jurisdiction, walk_months(jurisdiction, came, count, still)))
    return tuple(found)


def walk_days(first, last):
    while first < last:
        first += timedelta(days=1)
        yield first


@pytest.mark.parametrize("jurisdiction", [*FEASTS, "uk-gdpr", "ccpa"])
def test_pauses_agree_with_the_oracle(jurisdiction):
    start, span = at("2024-01-01"), 36 * 365 * 86400
    draw = random.Random(f"pause {jurisdiction}")
    made = clock(jurisdiction)
    for _ in range(3000):
        received = start + timedelta(seconds=draw.randrange(span))
        asked = received + timedelta(seconds=draw.randrange(130 * 86400))
        ended = asked + timedelta(seconds=draw.randrange(92 * 86400))
        pause = Pause(asked, ended)
        found = (made.due(received, pause), made.extended(received, pause))
        assert found == paused_oracle(jurisdiction, received, asked, ended), (received, pause)
        assert made.due(received) == oracle(jurisdiction, received)[0]


@pytest.mark.parametrize("jurisdiction", ["gdpr", "gdpr:DE", "uk-gdpr", "ccpa"])
def test_a_wait_that_begins_after_the_period_revives_nothing(jurisdiction):
    made, received = clock(jurisdiction), at("2026-03-02T12:00")
    for end in (made.due, made.extended):
        over = end(received)
        late = Pause(over + SECOND, over + timedelta(days=60))
        assert end(received, late) == over
        assert end(received, Pause(over, over + timedelta(days=60))) == (
            over if jurisdiction == "ccpa" else end(received, Pause(over - SECOND, over + timedelta(days=60)))
        )
    late = Pause(made.due(received) + SECOND, made.due(received) + timedelta(days=60))
    assert not made.may_refuse(received, late.ended, pause=late)
    assert not made.may_extend(received, late.ended, late)
