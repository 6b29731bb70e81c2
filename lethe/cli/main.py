"""`lethe`: the client's commands, and the service's where this copy of `lethe` lies in its checkout or image.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the service does not answer, 4 not ended when --timeout was
over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lethe.cli import account, mlflow, models, requests
from lethe.cli.common import PASSED_ON, UNDER_WAY, UNREACHABLE, bear_every_letter, die
from lethe.errors import LetheError, UnreachableError, WaitTimeoutError

DISTRIBUTION = "lethe-unlearning"
SERVICE = Path(__file__).parents[2] / "app" / "cli" / "main.py"  # in site-packages there is none
HELP = """Unlearning as a service.

The client's commands find the service through LETHE_URL and LETHE_API_KEY, else in the folder LETHE_DATA_DIR
(./lethe-data). Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the service does not answer, 4 not ended
when --timeout was over."""


# -- the client's commands -------------------------------------------------------------------------

client = typer.Typer()
GROUPS = {
    "dataset": models.dataset,
    "model": models.model,
    "job": models.job,
    "key": account.key,
    "webhook": account.webhook,
    "log": requests.log,
    "mlflow": mlflow.mlflow,
}
for name, sub in GROUPS.items():
    client.add_typer(sub, name=name)
VERBS: dict[str, Callable[..., None]] = {
    "list": account.list_things,
    "status": account.status,
    "wait": account.wait,
    "catalog": account.catalog,
    "download": models.download,
    "report": models.report,
    "request": requests.request,
    "requests-import": requests.import_requests,
    "decide": requests.decide,
    "identity": requests.prove_identity,
    "history": requests.history,
    "find": requests.find,
    "notice": requests.notice,
    "case-file": requests.case_file,
    "recall": requests.recall,
    "figures": requests.figures,
    "register": requests.register,
    "summary": requests.summary,
    "certificate": requests.certificate,
    "negative-report": requests.negative_report,
    "trust": requests.trust,
    "opening": requests.opening,
    "shred": requests.shred,
}
for name, verb in VERBS.items():
    client.command(name)(verb)
client.command("verify", context_settings=PASSED_ON, add_help_option=False)(requests.verify)


# -- the whole command line ------------------------------------------------------------------------


class ClientOnly(TyperGroup):
    """Says, of a command that is not there, where the service's commands are."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None:
            ctx.fail(
                f"there is no command `{cmd_name}` here. Commands of the service, such as `lethe serve`, run from its "
                "checkout after `make install`, or from its image."
            )
        return found


def commands(wanted: str = "") -> typer.Typer:
    """The client's commands and, where the service and its dependencies are installed, the service's.

    wanted: the one that will run. One of the client's does not wait for the import of the service.
    """
    service = None if wanted in {*GROUPS, *VERBS, "verify"} else _service()
    whole = typer.Typer(
        cls=TyperGroup if service else ClientOnly,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help=HELP,
        rich_markup_mode=None,
    )
    whole.callback()(_options)
    for part in (service, client):
        if part is not None:
            whole.add_typer(part)
    return whole


def _service() -> typer.Typer | None:
    if not SERVICE.exists():
        return None
    try:
        found: typer.Typer = import_module("app.cli.main").cli
    except ModuleNotFoundError as error:  # `pip install -e .` alone brings the client's dependencies
        if (error.name or "").partition(".")[0] in ("app", "lethe", "migrations"):  # ours: then the checkout is broken
            raise
        return None
    return found


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lethe {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `lethe` itself; the help is HELP."""


def main() -> None:
    bear_every_letter()
    try:
        commands(sys.argv[1] if len(sys.argv) > 1 else "")()
    except UnreachableError as error:
        die(f"{error}; is `lethe serve` running?" + _notes(error), UNREACHABLE)
    except WaitTimeoutError as error:
        die(str(error), UNDER_WAY)
    except LetheError as error:
        die(f"refused: {error}" + _notes(error))
    except OSError as error:
        die(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _notes(error: Exception) -> str:
    """How to go on, where the command knows."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
