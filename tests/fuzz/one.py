"""`python -m tests.fuzz.one NAME FOLDER [libFuzzer's options]`: fuzz one parser until an option ends it."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

# What is watched: our parsers, and of the standard library what they are built on.
WATCHED = ["app.formats", "app.api.http.paging", "app.api.schemas", "app.cases.notices", "app.core.ids", "lethe.verify"]
WATCHED += ["zipfile", "tarfile", "json.decoder", "json.scanner", "numpy.lib._format_impl", "numpy.lib.format"]


def main(name: str, folder: str, options: list[str]) -> None:
    for module in ("zipfile", "tarfile", "json", "json.decoder", "json.scanner"):
        sys.modules.pop(module, None)  # loaded by the interpreter before it was watched
    with atheris.instrument_imports(include=WATCHED):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    start = Path(folder) / "start"
    start.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.corpus(name)):
        (start / f"{number:05d}").write_bytes(data)
    found = Path(folder) / "found"
    found.mkdir(exist_ok=True)
    limits = [f"-max_len={target.longest}", "-timeout=10", "-rss_limit_mb=4096", "-print_final_stats=1"]
    places = [f"-artifact_prefix={folder}/", str(found), str(start)]
    atheris.Setup([sys.argv[0], *limits, *options, *places], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
