"""The program behind `lethe bench`: its options, and the processes that share its work."""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import joblib
import torch

from engine import host, seeding
from experiments import forecast, rounding
from experiments.computing import COMPUTE
from experiments.lab import Lab
from experiments.run import STUDIES, report, work
from experiments.scales import SCALES
from experiments.store import Store


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lethe bench",
        description="Measure every unlearning method under one audit. Stopped at any time, it goes on when it is "
        "started again with the same --out; other processes may share that folder.",
    )
    parser.add_argument("--scale", choices=list(SCALES), default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder of cells and results")
    parser.add_argument("--results", type=Path, help="folder of results.json, results.md and plots; default: --out")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet of CIFAR-10, or with a "
                        "folder for each dataset by name, or with what torchvision has downloaded")  # fmt: skip
    parser.add_argument("--download", action="store_true", help="let torchvision download what is not in --data")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch, on the CPU; default: the scale's")
    parser.add_argument("--processes", type=int, help="that share the work; default: on the CPU as many as there are "
                        "cores for their threads; on a GPU, or with --download, one")  # fmt: skip
    parser.add_argument("--precision", default="", help="of the models' recipe, where the recipe knows one")
    parser.add_argument("--study", action="append", choices=list(STUDIES), help="only this one; may be repeated")
    parser.add_argument("--budget-seconds", type=float, help="stop after this time, with a report of what is there")
    parser.add_argument("--report", action="store_true", help="compute nothing; report what is there")
    parser.add_argument("--rounding", help="with --report: the folder of cells within --out; default: that of "
                        "machines that round as this one does, or the only one")  # fmt: skip
    return parser.parse_args(given)


def command(options: argparse.Namespace) -> str:
    """What was run, without the folders of the machine that ran it."""
    words = ["lethe bench", f"--scale {options.scale}", "--out OUT"]
    words += ["--data DATA"] if options.data else []
    words += [f"--study {name}" for name in options.study or ()]
    words += [f"--{name} {value}" for name in ("precision", "threads") if (value := getattr(options, name))]
    return " ".join([*words, f"--device {options.device}"])


def main(given: list[str] | None = None) -> int:
    """Return 0 when everything was computed that can be had here, 3 when the time limit came first."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may have letters that the terminal has not
    options = arguments(given)
    store = store_of(options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the helpers inherit: a terminal sends it to all of them
    with _helpers(options):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: store.stop())
        finished = _run(options, store)
    how = "done" if finished else "stopped at the limit; go on with the same command"
    print(f"{how}: {_results(options)}/results.md")  # noqa: T201
    return 0 if finished else 3


def _run(options: argparse.Namespace, store: Store, *, helping: bool = False) -> bool:
    """Compute what is missing and report; return whether nothing is missing."""
    scale, device = SCALES[options.scale](options.precision), torch.device(options.device)
    lab = Lab(store, device, COMPUTE, options.data, options.download)
    studies = options.study or list(STUDIES)
    finished = True
    with seeding.deterministic() if device.type == "cpu" else contextlib.nullcontext():
        if scale.priced and not helping and not options.report:
            print(forecast.said(forecast.forecast(lab, scale, studies)), flush=True)  # noqa: T201
        if not options.report:
            finished = work(lab, scale, studies, lambda line: print(line, flush=True))  # noqa: T201
        if not helping:
            report(lab, scale, studies, command(options), _results(options))
    return finished


def store_of(options: argparse.Namespace) -> Store:
    """Of this run's cells: a folder for each family of machines that round alike, so that no table mixes them."""
    device = torch.device(options.device)
    host.keep_large_blocks()
    if threads := options.threads or SCALES[options.scale](options.precision).threads:
        torch.set_num_threads(threads)
    with seeding.deterministic() if device.type == "cpu" else contextlib.nullcontext():
        own = rounding.family(device)
    there = sorted(path.parent.name for path in options.out.glob("*/cells"))
    if options.report and (options.rounding or own) not in there and there:
        if len(there) > 1 or options.rounding:
            raise SystemExit(
                f"there are cells of machines that round otherwise: choose by --rounding {' or '.join(there)}"
            )
        own = there[0]
    return Store(
        options.out / (options.rounding if options.report and options.rounding else own), options.budget_seconds
    )


def _results(options: argparse.Namespace) -> Path:
    found: Path = options.results or options.out
    return found


# -- processes that share the work -----------------------------------------------------------------


@contextlib.contextmanager
def _helpers(options: argparse.Namespace) -> Iterator[None]:
    """Processes beside this one, on the same folder. They end when they find nothing left, or this one has ended."""
    count = 0 if options.report else (options.processes or processes(options)) - 1
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=_help, args=(options,), daemon=True) for _ in range(count)]
    try:
        for helper in helpers:
            helper.start()
        yield
    finally:
        for helper in helpers:
            if helper.pid is not None:
                helper.terminate()
                helper.join()


def processes(options: argparse.Namespace) -> int:
    """How many share the work where the command line does not say."""
    threads = options.threads or SCALES[options.scale]("").threads
    if options.device != "cpu" or threads is None or options.download:  # two would download the same
        return 1
    return max(1, int(joblib.cpu_count()) // threads)


def _help(options: argparse.Namespace) -> None:
    store = store_of(options)
    signal.signal(signal.SIGTERM, lambda *_: store.stop())

    def stop_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            store.stop()

    threading.Thread(target=stop_with_parent, daemon=True).start()
    _run(options, store, helping=True)
