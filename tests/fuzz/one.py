"""`python -m tests.fuzz.one NAME FOLDER [libFuzzer's options]`: fuzz one parser until an option ends it.

An exception that is no refusal ends it, and an input that takes 10 seconds; the input is then in FOLDER.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path

import atheris

# What is watched: our parsers, and of the standard library what they are built on.
WATCHED = ["app.formats", "app.api.http.paging", "app.api.schemas", "app.cases.notices", "app.core.ids", "lethe.verify"]
WATCHED += ["zipfile", "tarfile", "json.decoder", "json.scanner", "numpy.lib._format_impl", "numpy.lib.format"]
HUNG_SECONDS = 10.0


class Watch:
    """Ends the process, with the input kept, where an input takes too long."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data, self._since = folder, b"", 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, data: bytes) -> None:
        self._data, self._since = data, time.monotonic()

    def end(self) -> None:
        self._since = 0.0

    def fail(self, how: str) -> None:
        (self._folder / how).write_bytes(self._data)
        sys.stderr.flush()
        os._exit(1)

    def _look(self) -> None:
        while True:
            time.sleep(1.0)
            if (since := self._since) and time.monotonic() - since > HUNG_SECONDS:
                print("an input takes too long", file=sys.stderr)
                self.fail("hung")


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
    watch = Watch(Path(folder))

    def run(data: bytes) -> None:
        watch.begin(data)
        try:
            target.run(data)
        except BaseException:
            traceback.print_exc()
            watch.fail("uncaught")
        watch.end()

    limits = [f"-max_len={target.longest}", "-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"]
    places = [f"-artifact_prefix={folder}/", str(found), str(start)]
    atheris.Setup([sys.argv[0], *limits, *options, *places], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
