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
    all_lines,
    client,
    die,
    follow,
    group,
    local,
    read_lines,
    show,
    show_list,
    write_exactly,
)
from lethe.requests import UNDER_WAY
from lethe.types import DeletionRequest

log = group("The transparency log: head, entries, proofs.")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="Id of the deletion request.")]
Year = Annotated[int | None, typer.Option(help="Year of receipt, where the controller acts.")]


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
    ground: Annotated[str | None, typer.Option(help="The legal ground: 17(1)(a) to 17(1)(f), 21, or 1798.105.")] = None,
    received: Annotated[
        str | None, typer.Option(help="Day on which it was received, such as 2026-03-01; without it: now.")
    ] = None,
    received_reason: Annotated[str | None, typer.Option(help="Why it is entered on a later day.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your ticket or letter.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="How it came: letter, e-mail, web-form, phone, in-person, agent or other.")
    ] = None,
    complaint_about: Annotated[
        str | None, typer.Option(help="The answered request that this one reopens; then samples may be left out.")
    ] = None,
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Accept that a class or all training data are lost.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing, and say what the request would mean.")
    ] = False,
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
        "ground": ground,
        "received_at": received,
        "received_reason": received_reason,
        "reference": reference,
        "channel": channel,
        "complaint_about": complaint_about,
        "allow_data_loss": allow_data_loss,
    }
    with client() as calls:
        if dry_run:
            _show_draft(calls.requests.draft(dataset, **whom, **fields), as_json=as_json)
            return
        found = calls.requests.create(dataset, **whom, idempotency_key=key, **fields)
        if wait:
            found = follow_request(calls, found, quiet=as_json, timeout=timeout)
    show_request(found, as_json=as_json, judge=wait)


def _show_draft(found: dict[str, Any], *, as_json: bool) -> None:
    rows = [("samples", found["samples"]), ("received", local(found["received_at"])), ("due", local(found["due_at"]))]
    for model in found["models"]:
        time = "not measured" if model["seconds"] is None else f"about {model['seconds']:.0f} s"
        margin = "-" if model["smallest_margin"] is None else f"{model['smallest_margin']:.3f}"
        words = f"{model['samples']} of its training samples, {time}, smallest margin {margin}"
        rows.append((f"{model['name']} ({model['model']})", words))
    rows += [("versions", len(found["versions"])), ("duplicates that would stay", found["duplicates"])]
    show(found, [*rows, *(("", note) for note in found["notes"])], as_json=as_json)


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
    bodies = {number: _parsed(line, number) for number, line in enumerate(all_lines(file), 1) if line.strip()}
    numbers = list(bodies)
    with client() as calls:
        for result in calls.requests.import_lines(list(bodies.values())):
            result["line"] = numbers[result["line"]] - 1
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
    APPROVE = "approve"
    DISMISS = "dismiss"
    CONFIRM = "confirm"


WITHOUT_REASON = (Verb.RELEASE, Verb.APPROVE, Verb.CONFIRM)


def decide(
    thing: RequestId,
    verb: Annotated[Verb, typer.Argument(metavar="VERB", help="The decision.")],
    reason: Annotated[str | None, typer.Option(help="Kept with the request; it must name nobody.")] = None,
    ground: Annotated[
        str | None, typer.Option(help="Of a refusal: the statute's, such as 17(3)(e), 12(2) or 1798.105(d)(1).")
    ] = None,
    ids_file: Annotated[
        Path | None, typer.Option(help="Refuse only these samples, one id in each line; - for stdin.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide about a request.

    Every decision except `release`, `approve` and `confirm` needs a reason.
    """
    if (reason is None) != (verb in WITHOUT_REASON):
        raise typer.BadParameter(f"give --reason; only {', '.join(WITHOUT_REASON)} take none")
    if (ids_file is not None or ground is not None) and verb is not Verb.REFUSE:
        raise typer.BadParameter("--ids-file and --ground go with `refuse`")
    with client() as calls:
        if reason is None:
            found = getattr(calls.requests, verb.value)(thing)
        elif verb is Verb.REFUSE:
            ids = None if ids_file is None else read_lines(ids_file)
            found = calls.requests.refuse(thing, reason, ids, ground=ground)
        else:
            found = getattr(calls.requests, verb.value)(thing, reason)
    show_request(found, as_json=as_json)


class IdentityState(StrEnum):
    ASKED = "asked"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


def prove_identity(
    thing: RequestId,
    status: Annotated[IdentityState, typer.Argument(metavar="STATUS", help="asked, confirmed or refused.")],
    until: Annotated[str | None, typer.Option(help="With `asked`: the day up to which you wait.")] = None,
    at: Annotated[str | None, typer.Option(help="The day on which it happened; without it: now.")] = None,
    note: Annotated[str | None, typer.Option(help="How. Erased at the end of the retention.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how it is with the proof of identity.

    While it is waited for, nothing is erased, and the clock stands still where the law lets it.
    """
    with client() as calls:
        found = calls.requests.identity(thing, status.value, until=until, at=at, note=note)
    show_request(found, as_json=as_json)


def history(thing: RequestId, as_json: AsJson = False) -> None:
    """Show what happened to a request: when, by whom, and why."""
    with client() as calls:
        entries = calls.requests.history(thing)
    if as_json:
        write_json({"entries": entries}, None)
        return
    lines = [
        {
            "at": local(entry["at"]),
            "what": entry["kind"].partition(".")[2],
            "by": entry["actor_name"] or entry["actor"],
            "reason": entry["reason"],
        }
        for entry in entries
    ]
    show_list(iter(lines), ("at", "what", "by", "reason"), as_json=False)


def find(
    subjects_file: Annotated[Path, typer.Argument(metavar="FILE", help="Subjects, one in each line; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Look people up in every dataset.

    They are named by their place in the file.
    """
    with client() as calls:
        found = calls.requests.find(read_lines(subjects_file))
    if as_json:
        write_json(found, None)
        return
    lines = [
        {
            "line": each["subject"] + 1,
            "dataset": each["name"],
            "samples": each["samples"],
            "requested": f"{each['requested']} of {each['samples']}"
            + "".join(f"; {count} in {request}" for request, count in each["requests"].items()),
            "models": len(each["models"]),
        }
        for each in found["held"]
    ]
    show_list(iter(lines), ("line", "dataset", "samples", "requested", "models"), as_json=False)
    for place in found["erased"]:
        typer.echo(f"line {place + 1}: samples were erased before")
    for dataset in found["not_read"]:
        typer.echo(f"{dataset} is not ready: nobody could look into it")


def notice(
    thing: RequestId,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="acknowledgement, identity, extension, refusal or completion.")
    ],
    language: Annotated[str | None, typer.Option(help="en, de or fr; without it: that of your rules.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PDF to write; else the text is shown.")] = None,
    sent: Annotated[str | None, typer.Option(help="Mark it as sent: letter, e-mail …")] = None,
) -> None:
    """Make a notice to the person."""
    with client() as calls:
        made = calls.requests.make_notice(thing, kind, language)  # type: ignore[arg-type]  # the service says which
        if output is not None:
            output.write_bytes(calls.requests.notice_pdf(thing, made["id"]))
        else:
            typer.echo(f"{made['subject']}\n\n{made['body']}")
        if sent is not None:
            calls.requests.mark_sent(thing, made["id"], sent)


def case_file(
    thing: RequestId,
    output: Annotated[Path, typer.Option("--output", "-o", help="Zip to write.")] = Path("case.zip"),
    with_papers: Annotated[bool, typer.Option("--with-papers", help="Put in what came with the case, too.")] = False,
) -> None:
    """Fetch the case file of a request."""
    with client() as calls:
        output.write_bytes(calls.requests.case_file(thing, with_papers=with_papers))


def recall(
    thing: RequestId,
    language: Annotated[str | None, typer.Option(help="Of the notice: en, de or fr.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recall fetched versions of a request."""
    with client() as calls:
        show(calls.requests.recall(thing, language), as_json=as_json)  # type: ignore[arg-type]


def figures(year: Year = None, as_json: AsJson = False) -> None:
    """Show yearly counts, and days to the answer."""
    with client() as calls:
        found: dict[str, Any] = dict(calls.compliance.figures(year))
    rows = [("received", found["received"])]
    for name in ("by_law", "by_ground", "by_outcome", "by_refusal_ground", "by_verdict"):
        rows += [(f"{name.replace('_', ' ')}: {key}", count) for key, count in found[name].items()]
    rows.append(("refused late", found["refused_late"]))
    days = found["days"]
    rows.append(("days to the answer", f"mean {days['mean']}, median {days['median']}, late {days['late']}"))
    show(found, rows, as_json=as_json)


def follow_request(calls: Client, found: DeletionRequest, *, quiet: bool, timeout: float | None) -> DeletionRequest:
    """Show the jobs of a request, then wait for its end."""
    for outcome in found["outcomes"]:
        if outcome["job"] and found["status"] in UNDER_WAY:
            follow(calls, outcome["job"], f"unlearn {outcome['model']}", quiet=quiet, timeout=timeout)
    return calls.requests.wait(found["id"], timeout=timeout)


def names_of(calls: Client, found: DeletionRequest) -> dict[str, str]:
    """Names of the models that a request concerns."""
    return {outcome["model"]: calls.models.get(outcome["model"])["name"] for outcome in found["outcomes"]}


def show_request(
    found: DeletionRequest, *, as_json: bool, judge: bool = False, names: Mapping[str, str] | None = None
) -> None:
    """A request in words, its models by name where these are given; with `judge`, exit 1 unless it is fulfilled."""
    document: dict[str, Any] = dict(found)
    rows: list[tuple[str, Any]] = [(name, document[name]) for name in ("id", "status")]
    rows += [
        (name.replace("_", " "), document[name])
        for name in (
            "reason", "reference", "channel", "extension_reason", "samples", "jurisdiction", "basis", "ground",
            "complaint_about", "verdict",
        )
        if document[name] is not None
    ]  # fmt: skip
    for refusal in found["refusals"]:
        said = (refusal["ground"], refusal["reason"], "late" if refusal["late"] else None)
        letter = f"letter sent {local(refusal['letter_sent_at'])}" if refusal["letter_sent_at"] else "no letter sent"
        rows.append((f"refused: {refusal['samples']}", " · ".join(word for word in (*said, letter) if word)))
    if found["samples_refused"] and not found["refusals"]:
        rows.append(("samples refused", found["samples_refused"]))
    if found["identity"]["status"] != "not-needed":
        until = f", wait until {local(found['identity']['until'])}" if found["identity"]["status"] == "asked" else ""
        moves = "" if found["identity"]["moves_due_at"] else ", which moves no date"
        rows.append(("identity", found["identity"]["status"] + until + moves))
    if found["proposal"] is not None:
        rows.append(("waits", f"a refusal by {found['proposal']['by']} waits for a second person"))
    rows += [
        (name.removesuffix("_at").replace("_", " "), local(document[name]))
        for name in (
            "received_at", "confirm_by", "confirmed_at", "due_at", "extended_at", "extension_sent_at", "decided_at",
            "fulfilled_at", "model_replaced_at", "erasure_complete_at", "answered_at",
        )
        if document[name] is not None
    ]  # fmt: skip
    gone = sum(receipt["done_at"] is not None for receipt in found["receipts"])
    rows.append(("receipts", f"{gone} done, {len(found['receipts']) - gone} with a date"))
    for outcome in found["outcomes"]:
        published = f"version {outcome['version']}" if outcome["version"] else ""
        erased = "samples erased" if gone < len(found["receipts"]) else "samples and all copies erased"
        done = erased if outcome["state"] == "purged" else outcome["state"]
        words = [published, done, outcome["verdict"] or "", outcome["reason"] or ""]
        rows.append(((names or {}).get(outcome["model"], outcome["model"]), " · ".join(word for word in words if word)))
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
    """Print the register of requests, as CSV or JSON.

    With an `--output` whose name ends in .xlsx it is a workbook.
    """
    with client() as calls:
        if output is not None and output.suffix.lower() == ".xlsx" and not as_json:
            output.write_bytes(calls.compliance.register_xlsx(year))
            return
        found = (
            json.dumps(calls.compliance.register(year), indent=2) if as_json else calls.compliance.register_csv(year)
        )
    write(found, output)


def summary(year: Year = None, as_json: AsJson = False) -> None:
    """Show what is overdue or due within a week, and counts."""
    with client() as calls:
        found = calls.compliance.summary(year)
    rows: list[tuple[str, Any]] = [("as of", local(found["as_of"])), ("received", found["received"])]
    rows += [(status, count) for status, count in found["by_status"].items() if count]
    rows += [(f"models, {verdict}", count) for verdict, count in found["by_verdict"].items()]
    rows += [(name.replace("_", " "), found[name]) for name in ("samples", "extended", "answered_late")]
    rows += [("mean days", found["mean_days"]), ("median days", found["median_days"])]
    lists = (
        ("overdue", found["overdue"], found["overdue_count"]),
        ("due soon", found["due_soon"], found["due_soon_count"]),
    )
    for name, ids, count in lists:
        rows += [(name, ", ".join(ids[:20]) + (f" and {count - 20} more" if count > 20 else "") or "none")]
    show(found, rows, as_json=as_json)


def certificate(thing: RequestId, output: Output = None) -> None:
    """Print the signed certificate of a fulfilled request."""
    with client() as calls:
        write_json(calls.requests.certificate(thing), output)


def negative_report(thing: RequestId, output: Output = None) -> None:
    """Print what is signed as not certified, and why."""
    with client() as calls:
        write_json(calls.requests.negative_report(thing), output)


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
    """Verify a certificate or a case file offline."""
    from lethe import verify as verifier

    raise typer.Exit(verifier.main(context.args))
