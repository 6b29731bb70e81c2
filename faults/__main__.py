"""`python -m faults`: the seeded run; a table, a JSON document, and exit code 1 if anything was lost."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults.page import RESULTS, write

BACKENDS = ("sqlite", "postgresql")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of what strikes, when and where, and of who asks for what")
    parser.add_argument("--kills", type=int, default=200, help="on each database")
    parser.add_argument("--jobs", type=int, default=1000, help="on each database")
    parser.add_argument("--backend", choices=[*BACKENDS, "both"], default="both")
    parser.add_argument("--minutes", type=float, default=30.0, help="at most, of faults, on all databases together")
    parser.add_argument("--hours", type=float, default=0.0, help="the same in hours")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds of a worker's lease; the service's own is 60")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON document")
    return parser.parse_args()


def main() -> int:
    from faults.soak import soak

    asked = arguments()
    backends = BACKENDS if asked.backend == "both" else (asked.backend,)
    seconds = 60 * (60 * asked.hours or asked.minutes) / len(backends)
    failed = False
    for backend in backends:
        print(f"{backend}, seed {asked.seed}", flush=True)
        found = soak(backend, asked.seed, asked.kills, asked.jobs, seconds, asked.lease)
        command = (
            f"--backend {backend} --seed {asked.seed} --kills {asked.kills} --jobs {asked.jobs} --lease {asked.lease:g}"
        )
        keep(asked.out / f"faults_{backend}.json", f"make faults ARGS='{command} --minutes {seconds / 60:g}'", found)
        if asked.out == RESULTS:
            write()
        show(found)
        if found["broken"]:
            failed = True
            print(f"NOT ALL IS WELL. The same again: python -m faults {command}")
    return int(failed)


def keep(path: Path, command: str, figures: dict[str, Any]) -> None:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    document = {
        "benchmark": path.stem,
        "command": command,
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpu": cpu.partition(":")[2].strip(),
            "cores": str(os.cpu_count()),
            "python": platform.python_version(),
        },
        "figures": figures | {"gate": "nothing is broken", "gate_passed": not figures["broken"]},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def show(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if name == "broken":
            for each in value[:40]:
                print(f"  BROKEN  {each}")
        elif isinstance(value, dict):
            print(f"  {name}")
            for key, each in value.items():
                print(f"    {key:<36} {each}")
        else:
            print(f"  {name:<38} {value}")
    print(f"  {'broken':<38} {len(figures['broken'])}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
