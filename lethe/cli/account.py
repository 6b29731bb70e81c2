"""Commands on any object (list, status, wait), and on API keys and webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from lethe import Client
from lethe.cli.common import AsJson, Timeout, client, follow, group, show, show_job, show_list
from lethe.cli.requests import follow_request, names_of, show_request
from lethe.types import Scope

key = group("API keys: make, rotate, revoke.")
webhook = group("Webhooks: register, switch off, deliver again.")

Lister = tuple[Callable[[Client, str, dict[str, Any]], Iterator[Any]], tuple[str, ...]]
LISTS: dict[str, Lister] = {
    "datasets": (lambda c, _, f: c.datasets.list(**f), ("id", "name", "state", "samples", "created_at")),
    "models": (lambda c, _, f: c.models.list(**f), ("id", "name", "dataset", "current_version", "created_at")),
    "versions": (
        lambda c, of, f: c.versions.list(of, **f),
        ("number", "state", "origin", "parent", "trained_samples", "digest", "created_at"),
    ),
    "aliases": (lambda c, of, f: c.models.aliases(of, **f), ("name", "version", "updated_at")),
    "requests": (lambda c, _, f: c.requests.list(**f), ("id", "status", "verdict", "due_at")),
    "certificates": (lambda c, _, f: c.requests.certificates(**f), ("digest", "request", "issued_at", "supersedes")),
    "receipts": (lambda c, _, f: c.requests.receipts(**f), ("request", "model", "subject", "due_at", "done_at")),
    "jobs": (lambda c, _, f: c.jobs.list(**f), ("id", "kind", "state", "stage", "fraction", "model", "created_at")),
    "webhooks": (lambda c, _, f: c.webhooks.list(**f), ("id", "url", "events", "disabled_at")),
    "deliveries": (
        lambda c, of, f: c.webhooks.deliveries(of, **f),
        ("id", "kind", "state", "attempts", "last_error", "created_at"),
    ),
    "keys": (lambda c, _, f: c.keys.list(**f), ("id", "name", "scopes", "expires_at", "revoked_at")),
}
OF = {"versions": "model", "aliases": "model", "deliveries": "webhook"}


def list_things(
    noun: Annotated[str, typer.Argument(metavar="NOUN", help=", ".join(LISTS))],
    of: Annotated[str, typer.Argument(metavar="ID", help="Model (versions, aliases) or webhook (deliveries).")] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", help="A filter of the API, such as state=failed; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List things of one kind, newest first.

    With --json each line is a document.
    """
    if noun not in LISTS:
        raise typer.BadParameter(f"one of: {', '.join(LISTS)}")
    if bool(of) != (noun in OF):
        raise typer.BadParameter(f"`{noun}` needs the id of a {OF[noun]}" if noun in OF else f"`{noun}` takes no id")
    if any("=" not in pair for pair in where or ()):
        raise typer.BadParameter("a filter is NAME=VALUE", param_hint="--where")
    filters = dict(pair.partition("=")[::2] for pair in where or ())
    lister, columns = LISTS[noun]
    with client() as calls:
        show_list(lister(calls, of, filters), columns, as_json=as_json)


def status(
    thing: Annotated[str, typer.Argument(metavar="ID", help="Id of anything; without it: the service.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the status of a thing, or of the service."""
    with client() as calls:
        nouns: dict[str, Callable[[str], Any]] = {
            "dst": calls.datasets.get,
            "mdl": calls.models.get,
            "whk": calls.webhooks.get,
            "key": calls.keys.get,
        }
        prefix = thing.partition("_")[0]
        if not thing:
            show(calls.ready(), as_json=as_json)
        elif prefix == "del":
            request = calls.requests.get(thing)
            show_request(request, as_json=as_json, names=None if as_json else names_of(calls, request))
        elif prefix == "job":
            show_job(calls.jobs.get(thing), as_json=as_json, judge=False)
        elif prefix in nouns:
            found = nouns[prefix](thing)
            problem = found.get("problem") or {}
            rows = [(name, value) for name, value in found.items() if not isinstance(value, dict)]
            rows += [("problem", problem.get("detail"))] if problem else []
            rows += [("", fault["detail"]) for fault in problem.get("errors", [])]
            show(found, rows, as_json=as_json)
        else:
            raise typer.BadParameter("give the id of a dataset, model, request, job, webhook or key")


def wait(
    thing: Annotated[str, typer.Argument(metavar="ID", help="Id of a job or of a deletion request.")],
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job or a request until it ends.

    Exit 1 unless it succeeds, 4 when --timeout is over.
    """
    with client() as calls:
        if thing.startswith("job_"):
            show_job(follow(calls, thing, "job", quiet=as_json, timeout=timeout), as_json=as_json)
        elif thing.startswith("del_"):
            found = follow_request(calls, calls.requests.get(thing), quiet=as_json, timeout=timeout)
            show_request(found, as_json=as_json, judge=True)
        else:
            raise typer.BadParameter("give the id of a job or of a request")


def catalog(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="methods, attacks, audits, architectures, recipes or sources.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the methods, attacks, audits and other choices.

    With --json the JSON Schemas of their parameters, too.
    """
    with client() as calls:
        found = calls.catalog()
    if kind and kind not in found:
        raise typer.BadParameter(f"one of: {', '.join(found)}")
    chosen = {kind: found[kind]} if kind else found
    rows = [(f"{noun}/{name}", entry["summary"]) for noun, entries in chosen.items() for name, entry in entries.items()]
    show(chosen, rows, as_json=as_json)


# -- keys and webhooks -----------------------------------------------------------------------------

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")]
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]


@key.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who uses it, or what for.")],
    scopes: Annotated[list[str], typer.Option("--scope", "-s", help="read, request, operate, audit, admin.")],
    expires_in_days: Annotated[int | None, typer.Option(help="Days until it expires; without it: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its token is shown only now."""
    wanted: list[Scope] = scopes  # type: ignore[assignment]  # the service says which are known
    with client() as calls:
        show(calls.keys.create(name, wanted, expires_in_days), as_json=as_json)


@key.command("rotate")
def rotate_key(
    thing: KeyId,
    overlap_seconds: Annotated[int, typer.Option(help="Seconds in which the old key works beside the new one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a new key like this one; the old one ends after the overlap."""
    with client() as calls:
        show(calls.keys.rotate(thing, overlap_seconds), as_json=as_json)


@key.command("revoke")
def revoke_key(thing: KeyId) -> None:
    """End a key at once."""
    with client() as calls:
        calls.keys.revoke(thing)


@webhook.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(metavar="URL", help="An https address that is public.")],
    events: Annotated[
        list[str] | None,
        typer.Option("--event", "-e", help="Such as `version.unlearned`, `request.*`; without it: all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a receiver of events. Its signing secret is shown only now."""
    with client() as calls:
        show(calls.webhooks.create(url, events or []), as_json=as_json)


@webhook.command("disable")
def disable_webhook(thing: WebhookId) -> None:
    """Switch a receiver off; its undelivered events stay listed."""
    with client() as calls:
        calls.webhooks.disable(thing)


@webhook.command("rotate")
def rotate_webhook(thing: WebhookId, as_json: AsJson = False) -> None:
    """Make a new signing secret, shown only now. For a day the old one signs, too."""
    with client() as calls:
        show(calls.webhooks.rotate_secret(thing), as_json=as_json)


@webhook.command("replay")
def replay(
    thing: WebhookId,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")],
    as_json: AsJson = False,
) -> None:
    """Send a delivery again, with the same message id."""
    with client() as calls:
        show(calls.webhooks.replay(thing, delivery), as_json=as_json)
