"""What a change of a model's policy means for the requests that are open now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from markupsafe import Markup

from app.console.calls import Document
from app.console.words import Clock, count, duration, parse

CARRIED_OUT = {"method": "method", "attack": "attack", "escalation": "last step", "remain": "remaining data"}
JUDGED = {
    "audit": "audit",
    "on_inconclusive": "rule for what is inconclusive",
    "utility_floor": "floor of the accuracy",
}


def meaning(now: Document, then: Document, model: str, requests: Sequence[Document], clock: Clock) -> list[Markup]:
    """Sentences; one that says so where nothing changes.

    Args:
        now, then: the policy as it is, and as the form has it.
        requests: the open ones of the model: accepted, or under way.
    """
    changed = {name for name in then if then[name] != now.get(name)}
    if not changed:
        return [Markup("The form says what holds now.")]
    states = {row["id"]: of["state"] for row in requests for of in row["outcomes"] if of["model"] == model}
    waiting = [row for row in requests if states.get(row["id"]) == "pending"]
    running = [row for row in requests if states.get(row["id"]) == "batched"]
    said = []
    for words, does in ((CARRIED_OUT, "carries out"), (JUDGED, "judges")):
        names = [word for name, word in words.items() if name in changed]
        if names:
            them = count(len(waiting), "open request that waits", "open requests that wait")
            line = f"The other {' and '.join(names)} {does} " + (them if waiting else "no request that is open now")
            said.append(Markup("{}.").format(line))
    if "when" in changed:
        said += _batches(then["when"], waiting, clock)
    if "canaries" in changed:
        said.append(Markup("The next job forgets {} along.").format(count(then["canaries"], "canary", "canaries")))
    if "grace_seconds" in changed:
        kept = f"for {duration(then['grace_seconds'])}" if then["grace_seconds"] else "not at all"
        line = Markup("What is replaced from now on is kept {}; versions of a request may have to go sooner.")
        said.append(line.format(kept))
    if running:
        them = count(len(running), "request is", "requests are")
        said.append(Markup("{} under way, by the policy that held when the job began.").format(them))
    return said


def _batches(when: Document, waiting: Sequence[Document], clock: Clock) -> list[Markup]:
    if when["mode"] == "each":
        if not waiting:
            return [Markup("Each request to come has a job of its own, at once.")]
        them = count(len(waiting), "open request that waits has", "open requests that wait have")
        return [Markup("{} a job of its own, at once.").format(them)]
    if not waiting:
        return [Markup("No request waits. Those to come wait until the batch closes.")]
    oldest = min(waiting, key=lambda row: parse(row["posted_at"]))
    closes = parse(oldest["posted_at"]) + timedelta(seconds=when["max_age_seconds"])
    said = []
    if len(waiting) >= when["max_requests"]:
        said.append(Markup("The batch closes at once: {} wait.").format(count(len(waiting), "request")))
        return said
    said.append(
        Markup("{} for a batch, which closes on {}, or at {} at the latest.").format(
            count(len(waiting), "open request waits", "open requests wait"),
            count(when["max_requests"], "request"),
            clock.time(max(closes, clock.now)),
        )
    )
    early = [row for row in waiting if parse(row["due_at"]) <= closes]
    if early:
        first = min(early, key=lambda row: parse(row["due_at"]))
        them = count(len(early), "of them is", "of them are")
        said.append(
            Markup("{} due before that, the first on {}: the batch closes in time for it, with fewer requests.").format(
                them, clock.day(first["due_at"], first["jurisdiction"])
            )
        )
    return said
