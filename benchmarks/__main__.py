"""`python -m benchmarks [name …]`: run the named benchmarks, or all; print a table and keep the figures as JSON.

Each benchmark measures what it compares side by side in one run, and states beside each ratio the quality gate
that makes it count. Exit code 1 if a gate failed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks import (
    attack,
    audits,
    canaries,
    console,
    datasets,
    door,
    download,
    economy,
    fine_tuned,
    lists,
    mapped,
    posting,
    precision,
    rmia,
    service,
    training,
)

RESULTS = Path(__file__).parent / "results"
ALL: dict[str, Callable[[], dict[str, object]]] = {
    "rmia_score_60k": rmia.score_60k,
    "audit_calibration": audits.audit_calibration,
    "attack_closed_form": attack.closed_form,
    "attack_batched": attack.batched,
    "bfloat16_examples": precision.bfloat16_examples,
    "training": training.training,
    "fast_recipe": training.fast_recipe,
    "audit_warm": training.audit_warm,
    "mapped_fine_tune": mapped.mapped_fine_tune,
    "batch_economy": economy.batch_economy,
    "warm_worker": economy.warm_worker,
    "canaries": canaries.canaries,
    "linear_probe_reference": fine_tuned.linear_probe_reference,
    "attack_on_vit": fine_tuned.attack_on_vit,
    "api_start": service.api_start,
    "stream_1gb": service.stream_1gb,
    "download_1gb": download.download_1gb,
    "post_to_start": service.post_to_start,
    "post_one_id": posting.post_one_id,
    "status_polls": posting.status_polls,
    "accept_100k_ids": posting.accept_100k_ids,
    "pages": lists.pages,
    "console_pages": console.pages,
    "ingest": datasets.ingest,
    "purge_500_of_50k": datasets.purge_500,
    "two_million_samples": datasets.two_million,
    "five_million_samples": datasets.most_samples,
    "page_of_two_million": datasets.page_of_two_million,
    "large_jpegs": datasets.large_jpegs,
    "hostile_connections": door.hostile_connections,
    "two_tenant_race": door.two_tenant_race,
}


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, platform.processor())
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "fastapi", "sqlalchemy")}
    return {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def main() -> int:
    names = sys.argv[1:] or list(ALL)
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for name in names:
        figures = ALL[name]()
        document = {
            "benchmark": name,
            "command": f"make bench ARGS={name}",
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": machine(),
            "figures": figures,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(f"{name}")
        for key, value in figures.items():
            print(f"  {key:<34} {value:.4g}" if isinstance(value, float) else f"  {key:<34} {value}")
        if not figures["gate_passed"]:
            failed.append(name)
    if failed:
        print(f"gate failed: {', '.join(failed)}")
    return bool(failed)


sys.exit(main())
