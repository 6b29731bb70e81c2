"""When an answer is due. GDPR Art. 12(3) with Regulation 1182/71: a calendar month, not thirty days."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta

JURISDICTIONS = ("gdpr", "ccpa")


def add_months(moment: datetime, months: int) -> datetime:
    """The same-numbered day so many months later, or that month's last day where there is none."""
    index = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(index, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def due(jurisdiction: str, received: datetime) -> datetime:
    """The end of the last day (UTC) on which an answer is in time."""
    if jurisdiction == "ccpa":
        last = received + timedelta(days=45)
    else:
        last = add_months(received, 1)
        while last.weekday() >= 5:  # ends with the last hour of the following working day
            last += timedelta(days=1)
    return last.replace(hour=23, minute=59, second=59, microsecond=0)
