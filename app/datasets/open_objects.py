"""Opening the storage of others that a tenant's datasets refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.core.config import Settings

if TYPE_CHECKING:
    from app.datasets.objects import Objects


def objects_of(settings: Settings, tenant_id: str) -> Objects:
    from app.datasets.objects import Objects  # its library is slow to load, and most datasets need it not

    return Objects(settings, tenant_id)
