"""Storage of others that datasets may refer to, as the operator has set it."""

from __future__ import annotations

from collections.abc import Sequence

from app.core.config import OBJECTS, Settings
from app.core.errors import Unprocessable
from app.formats.addresses import OUTSIDE
from app.rules.policy import Choice


class ObjectError(Exception):
    """An object that cannot be taken for a picture of a dataset. `kind`: `object-gone`, `object-changed` or
    `object-refused`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def allowed(settings: Settings, tenant_id: str) -> list[str]:
    """`bucket/folder/` of each storage that datasets of the tenant may refer to."""
    return _of(settings.objects_allowed, tenant_id)


def erasable(settings: Settings, tenant_id: str) -> list[str]:
    """Of each storage in which erasing a sample of the tenant deletes its object."""
    return _of(settings.objects_erasable, tenant_id)


def _of(given: Sequence[str], tenant_id: str) -> list[str]:
    found = [match for each in given if (match := OBJECTS.fullmatch(each))]
    mine = [match for match in found if match["tenant"] in (None, tenant_id)]
    return [f"{match['bucket']}{match['folder']}/" for match in mine]


def covers(given: Sequence[str], address: str) -> bool:
    return address.removeprefix("s3://").startswith(tuple(given))


def require_allowed(settings: Settings, tenant_id: str, source: Choice) -> None:
    """Refuse a source `objects` that the operator has not made possible.

    Raises:
        Unprocessable: no storage is allowed, or not that of its prefix.
    """
    if source.name != "objects":
        return
    given = allowed(settings, tenant_id)
    if not given:
        raise Unprocessable(
            "The operator of this service allows no storage that datasets may refer to (LETHE_OBJECTS_ALLOWED).",
            kind="storage-not-allowed",
        )
    prefix = source.params.get("prefix")
    if prefix is not None and not covers(given, prefix):
        raise Unprocessable(
            f"The prefix cannot be taken: {OUTSIDE}.",
            kind="storage-not-allowed",
            errors=[{"pointer": "/source/params/prefix", "detail": OUTSIDE}],
        )
