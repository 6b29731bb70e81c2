"""Commands on the service's own database and storage: backup, and the erasure ledger that outlives a restore."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.settings import read_settings, starting
from app.core import logs
from lethe.cli.common import REFUSED, AsJson, die, group, show

erasures = group("The erasure ledger: write it, replay it after a restore.")
LedgerFile = Annotated[Path, typer.Argument(metavar="FILE", help="The ledger, on another disk than the database.")]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to put it; the folder must not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Take a backup while the service runs.

    It has the database at one moment, its blobs and its keys.
    """
    from app.operations import startup
    from app.recovery import backup as backups

    with starting(), startup.plain():
        startup.check(read_settings())
        try:
            taken = asdict(backups.take(read_settings(), folder))
        except backups.BackupError as error:
            die(str(error))
    show(taken, [("folder", folder), *taken.items()], as_json=as_json)


def check(
    quick: Annotated[bool, typer.Option("--quick", help="Do not read every blob and every entry of the log.")] = False,
    at_rest: Annotated[
        bool, typer.Option("--at-rest", help="No part runs and no work is left: what is still open is wrong, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that nothing was lost and nothing was done twice.

    It reads the database and the blobs, also while the service runs. Exits 1 if a rule does not hold, and says which.
    """
    from app.operations import startup
    from app.recovery import checker

    with starting(), startup.plain():
        startup.check(read_settings())
        found = checker.check_service(read_settings(), at_rest=at_rest, thorough=not quick)
    lines = [(each.rule, f"{each.object}: {each.detail}") for each in found]
    show([asdict(each) for each in found], lines or [("violations", "none")], as_json=as_json)
    if found:
        raise typer.Exit(REFUSED)


@erasures.command("export")
def export(path: LedgerFile, as_json: AsJson = False) -> None:
    """Append the fulfilled erasures that the ledger lacks.

    With LETHE_ERASURES_FILE the sweeper does it.
    """
    from app.operations import startup
    from app.recovery import erasure_ledger

    with starting(), startup.plain():
        startup.check(read_settings())
        with startup.opened(read_settings()) as database:
            written = erasure_ledger.Keeper(database, read_settings(), path).keep()
    show({"written": written}, [("written", written)], as_json=as_json)


@erasures.command("replay")
def replay_(path: LedgerFile, as_json: AsJson = False) -> None:
    """Request again the erasures that a restored database lacks.

    Run it before any part of the service. Exits 1 while something is left to do, and says what.
    """
    from app.operations import startup
    from app.recovery import replay

    logs.configure("replay", read_settings().log_format)
    if not path.exists():
        die(f"{path} does not exist")
    with starting(), startup.plain():
        startup.check(read_settings())
        with startup.opened(read_settings()) as database:
            try:
                done = replay.replay(database, read_settings(), path)
            except replay.LedgerError as error:
                die(f"{error}; nothing was done")
    document = asdict(done)
    counts = [(name.replace("_", " "), count) for name, count in document.items() if isinstance(count, int)]
    models = [("withheld", model) for model in done.withheld]
    show(document, [*counts, *models, *(("to do", line) for line in done.todo)], as_json=as_json)
    if not done.complete:
        raise typer.Exit(REFUSED)
