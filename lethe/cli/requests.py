"""Commands of the privacy officer: deletion requests, decisions, register, evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lethe import Client
from lethe.cli.common import (
    REFUSED,
    AsJson,
    IdsFile,
    Output,
    Timeout,
    Yes,
    client,
    die,
    follow,
    group,
    read_lines,
    show,
    write_exactly,
)
from lethe.requests import UNDER_WAY
from lethe.types import DeletionRequest

log = group("The transparency log: head, entries, proofs.")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="Id of the deletion request.")]
Year = Annotated[int | None, typer.Option(help="Year of receipt, UTC.")]


def request(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id or name of the dataset.")],
    ids_file: IdsFile = None,
    subjects_file: Annotated[
        Path | None, typer.Option(help="Instead of ids: all samples of these subjects, one in each line.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="This model only; the dataset keeps the samples.")] = None,
    jurisdiction: Annotated[
        str, typer.Option(help="Whose deadline counts: gdpr, gdpr:DE, gdpr:DE-BY, uk-gdpr, ccpa …")
    ] = "gdpr",
    basis: Annotated[str, typer.Option(help="The ground, in the words of your register.")] = "erasure-request",
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Accept that a class or all training data are lost.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and store nothing.")] = False,
    key: Annotated[
        str | None, typer.Option(help="Your own key, such as a ticket number: sent twice, it is made once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ends; exit 1 unless it is fulfilled.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Request the deletion of samples.

    Their ids come from a file or standard input, never as arguments, which process lists and histories show. A
    dataset that is carried for a model is forgotten as a whole: give no ids.
    """
    if ids_file is not None and subjects_file is not None:
        raise typer.BadParameter("give either --ids-file or --subjects-file")
    whom: dict[str, Any] = {
        "sample_ids": None if ids_file is None else read_lines(ids_file),
        "subjects": None if subjects_file is None else read_lines(subjects_file),
    }
    fields: dict[str, Any] = {
        "model": model,
        "jurisdiction": jurisdiction,
        "basis": basis,
        "allow_data_loss": allow_data_loss,
    }
    with client() as calls:
        if dry_run:
            show(calls.requests.preview(dataset, **whom, **fields), as_json=as_json)
            return
        found = calls.requests.create(dataset, **whom, idempotency_key=key, **fields)
        if wait:
            found = follow_request(calls, found, quiet=as_json, timeout=timeout)
    show_request(found, as_json=as_json, judge=wait)


def import_requests(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Bodies of requests, a JSON object in each line; - for stdin."),
    ],
    as_json: AsJson = False,
) -> None:
    """Send many deletion requests at once.

    The service accepts or refuses each line by itself. If it refuses any, standard error has the number, and the
    exit code is 1.
    """
    refused = sent = 0
    with client() as calls:
        for result in calls.requests.import_lines([_parsed(line, n) for n, line in enumerate(read_lines(file), 1)]):
            sent += 1
            refused += result["problem"] is not None
            words = result["id"] or f"refused: {(result['problem'] or {}).get('detail')}"
            typer.echo(json.dumps(result) if as_json else f"{result['line'] + 1}: {words}")
    if refused:
        die(f"{refused:,} of {sent:,} lines were refused")


class Verb(StrEnum):
    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    EXTEND = "extend"
    REFUSE = "refuse"


def decide(
    thing: RequestId,
    verb: Annotated[Verb, typer.Argument(metavar="VERB", help="The decision.")],
    reason: Annotated[str | None, typer.Option(help="Kept with the request; it must name nobody.")] = None,
    ids_file: Annotated[
        Path | None, typer.Option(help="Refuse only these samples, one id in each line; - for stdin.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel, hold, release, extend or refuse a request.

    Every decision except `release` needs a reason.
    """
    if (reason is None) != (verb is Verb.RELEASE):
        raise typer.BadParameter("give --reason; only `release` takes none")
    if ids_file is not None and verb is not Verb.REFUSE:
        raise typer.BadParameter("--ids-file goes with `refuse`")
    with client() as calls:
        if reason is None:
            found = calls.requests.release(thing)
        elif verb is Verb.REFUSE:
            found = calls.requests.refuse(thing, reason, None if ids_file is None else read_lines(ids_file))
        else:
            found = getattr(calls.requests, verb.value)(thing, reason)
    show_request(found, as_json=as_json)


def follow_request(calls: Client, found: DeletionRequest, *, quiet: bool, timeout: float | None) -> DeletionRequest:
    """Show the jobs of a request, then wait for its end."""
    for outcome in found["outcomes"]:
        if outcome["job"] and found["status"] in UNDER_WAY:
            follow(calls, outcome["job"], f"unlearn {outcome['model']}", quiet=quiet, timeout=timeout)
    return calls.requests.wait(found["id"], timeout=timeout)


def show_request(found: DeletionRequest, *, as_json: bool, judge: bool = False) -> None:
    """A request in words; with `judge`, exit 1 unless it is fulfilled."""
    document: dict[str, Any] = dict(found)
    names = ("id", "status", "reason", "samples", "jurisdiction", "received_at", "due_at", "fulfilled_at")
    rows = [(name, document[name]) for name in names]
    gone = sum(receipt["done_at"] is not None for receipt in found["receipts"])
    rows.append(("receipts", f"{gone} done, {len(found['receipts']) - gone} with a date"))
    for outcome in found["outcomes"]:
        published = f"version {outcome['version']}" if outcome["version"] else ""
        done = "and its remains are erased" if outcome["state"] == "purged" else outcome["state"]
        words = [published, done, outcome["reason"] or ""]
        rows.append((outcome["model"], " · ".join(word for word in words if word)))
    show(document, rows, as_json=as_json)
    if judge and found["status"] != "fulfilled":
        raise typer.Exit(REFUSED)


# -- register and evidence -------------------------------------------------------------------------


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise typer.BadParameter(f"line {number} is not JSON; nothing was sent") from None


def write(text: str, output: Path | None) -> None:
    if output is None:
        write_exactly(text)
    else:
        output.write_bytes(text.encode())


def write_json(document: Mapping[str, Any], output: Path | None) -> None:
    write(json.dumps(document, indent=2) + "\n", output)


def register(year: Year = None, output: Output = None, as_json: AsJson = False) -> None:
    """Print the register of requests, as CSV or JSON."""
    with client() as calls:
        found = (
            json.dumps(calls.compliance.register(year), indent=2) if as_json else calls.compliance.register_csv(year)
        )
    write(found, output)


def summary(year: Year = None, as_json: AsJson = False) -> None:
    """Show what is overdue or due within a week, and counts."""
    with client() as calls:
        show(calls.compliance.summary(year), as_json=as_json)


def certificate(thing: RequestId, output: Output = None) -> None:
    """Print the signed certificate of a fulfilled request."""
    with client() as calls:
        write_json(calls.requests.certificate(thing), output)


def trust(output: Output = None) -> None:
    """Print the public keys that sign certificates.

    `lethe verify --trust` reads them. Compare them with a copy of your own.
    """
    with client() as calls:
        write_json(calls.log.keys(), output)


def opening(thing: RequestId, ids_file: IdsFile = None, output: Output = None) -> None:
    """Print the salt that links ids to a request's certificate.

    With --ids-file, print the file with which `lethe verify --membership` checks whether these ids were in the
    request.
    """
    ids = {} if ids_file is None else {"ids": read_lines(ids_file)}
    with client() as calls:
        write_json({"salt": calls.requests.opening(thing), **ids}, output)


def shred(thing: RequestId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete the salt of a request's certificate.

    Then nobody can link ids to the certificate. It cannot be undone.
    """
    if not yes:
        typer.confirm(f"Delete the salt of {thing}?", abort=True)
    with client() as calls:
        show({"deleted": calls.requests.shred(thing)}, as_json=as_json)


@log.command("head")
def head(output: Output = None) -> None:
    """Print the signed head. Its second line is the size.

    Keep it: `lethe verify --earlier-head` checks that since then the log was only appended to.
    """
    with client() as calls:
        write(calls.log.checkpoint(), output)


@log.command("entries")
def entries(
    start: Annotated[int, typer.Option(help="Number of the first leaf, from 0.")] = 0,
    limit: Annotated[int, typer.Option(help="Largest number of entries, up to 1000.")] = 100,
) -> None:
    """Print entries as they were hashed, as JSON lines."""
    with client() as calls:
        for entry in calls.log.entries(start, limit):
            typer.echo(json.dumps(entry))


Size = Annotated[int, typer.Argument(metavar="SIZE", help="Number of leaves of the tree.")]


@log.command("inclusion")
def inclusion(
    leaf: Annotated[int, typer.Argument(metavar="LEAF", help="Number of the leaf, from 0.")],
    size: Size,
    output: Output = None,
) -> None:
    """Prove that a leaf is in the tree."""
    with client() as calls:
        write_json({"hashes": calls.log.inclusion(leaf, size)}, output)


@log.command("consistency")
def consistency(
    old: Annotated[int, typer.Argument(metavar="OLD", help="Number of leaves of the earlier tree.")],
    size: Size,
    output: Output = None,
) -> None:
    """Prove that the tree continues an earlier one.

    `lethe verify --consistency` reads it; SIZE is then the tree size in the certificate.
    """
    with client() as calls:
        write_json({"hashes": calls.log.consistency(old, size)}, output)


def verify(context: typer.Context) -> None:
    """Verify a certificate offline, without a service."""
    from lethe import verify as verifier

    raise typer.Exit(verifier.main(context.args))
