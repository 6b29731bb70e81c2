"""`python -m tests.fuzz [NAME …]`: fuzz the named parsers, or all, each in a process of its own; a table and JSON.

atheris (libFuzzer) mutates inputs and keeps those that reach lines that none reached before. An exception that is no
refusal, an input that takes 10 seconds, and one that takes 4 GB end the run of its parser, and the input is kept.
Exit code 1 if that happened.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from faults.page import write
from tests.fuzz.targets import CORPUS, TARGETS

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "fuzzing.json"
KEPT_BYTES = 60_000  # of a corpus in the repository


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each parser")
    parser.add_argument("--seconds", type=int, default=0, help="at most, of each parser; 0: no limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-corpus", action="store_true", help="keep what reached more, as small as it goes")
    return parser.parse_args()


def fuzz(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The figures of one parser; `failure`: what ended its run, if anything did."""
    options = [f"-runs={asked.runs}", f"-seed={asked.seed}", f"-max_total_time={asked.seconds}"]
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", done.stderr, re.MULTILINE))
    covered = re.findall(r"cov: (\d+)", done.stderr)
    found: dict[str, object] = {
        "executions": int(stats.get("number_of_executed_units", 0)),
        "per_second": int(stats.get("average_exec_per_sec", 0)),
        "slowest_seconds": int(stats.get("slowest_unit_time_sec", 0)),
        "peak_mb": int(stats.get("peak_rss_mb", 0)),
        "branches_reached": int(covered[-1]) if covered else 0,
    }
    inputs = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or inputs or "executions" not in found:
        kept = ROOT / "build" / "fuzz"
        kept.mkdir(parents=True, exist_ok=True)
        for path in inputs:
            (kept / f"{name}-{path.name}").write_bytes(path.read_bytes())
        said = [line for line in done.stderr.splitlines() if not line.startswith(("#", "INFO", "stat::"))]
        found["failure"] = "\n".join([*said[-25:], f"exit code {done.returncode}"])
    return found


def keep_corpus(name: str, folder: Path) -> None:
    """The smallest inputs that reach all that was reached, as far as they are small."""
    merged = folder / "merged"
    merged.mkdir()
    whole = [str(folder / "found"), str(folder / "start")]
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), "-merge=1", str(merged), *whole]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    inputs = sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name))
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(CORPUS / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        size = 0
        for path in inputs:
            size += path.stat().st_size
            if size > KEPT_BYTES:
                break
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


def main() -> int:
    asked = arguments()
    if unknown := set(asked.names) - TARGETS.keys():
        sys.exit(f"there is no parser {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    known = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else {}
    failed = False
    for name in asked.names or TARGETS:
        with tempfile.TemporaryDirectory(prefix="lethe-fuzz-") as place:
            found = fuzz(name, asked, Path(place))
            if asked.keep_corpus and "failure" not in found:
                keep_corpus(name, Path(place))
        failure = found.pop("failure", "")
        print(f"{'FAILED' if failure else 'ok':6}  {name:<12} {found}", flush=True)
        if failure:
            failed = True
            print(f"{failure}\nthe input is in build/fuzz", flush=True)
        known[name] = found | {"uncaught_or_hung": int(bool(failure)), "seed": asked.seed}
        keep_figures(known)
    write()
    return int(failed)


def keep_figures(known: dict[str, object]) -> None:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    document = {
        "benchmark": "fuzzing",
        "command": "make fuzz",
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpu": cpu.partition(":")[2].strip(),
            "cores": str(os.cpu_count()),
            "python": platform.python_version(),
        },
        "figures": known,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
