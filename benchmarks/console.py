"""Pages of the console on a database of a million requests: how long, how large."""

from __future__ import annotations

import logging
import time

from fastapi.testclient import TestClient

from app.console.requests import SHOWN
from app.core import keys, users
from app.main import create_app
from benchmarks.loaded import loaded
from benchmarks.posting import kinds

SIZE, MOST_SECONDS, MOST_BYTES = 1_000_000, 0.15, 100_000


def pages() -> dict[str, object]:
    """The middle of nine visits of each page."""
    figures: dict[str, object] = {}
    worst, largest = 0.0, 0
    logging.getLogger("lethe.request").setLevel(logging.WARNING)
    for kind in kinds():
        with loaded(kind, SIZE) as (settings, database, ids):
            with database.write() as session:
                link = users.make_link(session, users.named(session, keys.FIRST_TENANT, "bench", "owner"))
            with TestClient(create_app(settings)) as browser:
                browser.post("/console/sign-in/link", data={"token": link})
                for path in _paths(ids):
                    took, size = [], 0
                    for _ in range(9):
                        began = time.perf_counter()
                        reply = browser.get(path)
                        took.append(time.perf_counter() - began)
                        size = len(reply.content)
                        if reply.status_code != 200:
                            raise ValueError(f"{path}: {reply.status_code}")
                    middle = sorted(took)[len(took) // 2]
                    figures[f"{kind} {path}"] = f"{1000 * middle:.0f} ms, {size / 1000:.1f} kB"
                    worst, largest = max(worst, middle), max(largest, size)
    return {
        **figures,
        "worst_s": worst,
        "largest_bytes": largest,
        "gate": "every page within 150 ms and 100 kB",
        "gate_passed": worst <= MOST_SECONDS and largest <= MOST_BYTES,
    }


def _paths(ids: dict[str, str]) -> list[str]:
    lists = [f"/console/requests?show={shown}" for shown in SHOWN]
    return [
        "/console",
        *lists,
        f"/console/requests?show=open&dataset={ids['rare_dataset']}",
        f"/console/requests/del_{SIZE // 2 + 4:026d}",
        "/console/requests/new",
        "/console/models",
        f"/console/models/{ids['model']}",
        "/console/datasets",
        f"/console/datasets/{ids['dataset']}",
        "/console/jobs",
        "/console/jobs?show=failed",
        f"/console/models/{ids['model']}/versions/2",
        f"/console/models/{ids['model']}/compare?a=1&b=2",
        "/console/models/new",
        "/console/audits",
        "/console/requests/find",
        "/console/settings/rules",
        "/console/settings/letters/completion/en",
        f"/console/jobs/job_{SIZE // 2 + 4:026d}",
        "/console/register",
        "/console/evidence",
        "/console/settings",
        f"/console/settings/webhooks/whk_{0:026d}",
    ]
