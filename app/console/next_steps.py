"""What an officer does next with a request: from its state, its dates, its letters and what is left of it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from app.console.calls import Document
from app.console.words import Clock, count

OVER = ("refused", "cancelled")


def of_request(
    request: Document, notices: Sequence[Document], clock: Clock, *, certified: bool, owed: int
) -> list[Markup]:
    """Never empty: where nothing is to be done, until when.

    Args:
        certified: it has a certificate, and the reader may fetch it.
        owed: pictures that their owner must delete.
    """
    law, steps = request["jurisdiction"], list[Markup]()

    def add(said: Markup, *values: object) -> None:
        steps.append(said.format(*values))

    def day(name: str) -> Markup:
        return clock.day(request[name], law)

    for row in notices:
        if row["sent_at"] is None:
            add(Markup("Send the letter “{}”, and note that it was sent."), row["subject"])
    made = {row["kind"] for row in notices}
    if request["proposal"]:
        add(Markup("A second person approves or dismisses the proposed refusal."))
    if request["confirm_by"] and not request["confirmed_at"] and request["status"] not in OVER:
        add(Markup("Confirm the receipt to the person by {}."), day("confirm_by"))
    if request["extended_at"] and not request["extension_sent_at"] and "extension" not in made:
        add(Markup("Make and send the letter about the longer period: the person must hear why, in time."))
    if any(not each["letter_sent_at"] for each in request["refusals"]) and "refusal" not in made:
        add(Markup("Make and send the letter about the refusal: the person must hear why, and where to complain."))
    if owed:
        add(Markup('Delete the <a href="#objects">{}</a> where they lie, and confirm it.'), count(owed, "picture"))
    if request["fulfilled_at"]:
        if not request["answered_at"] and "completion" not in made:
            add(
                Markup(
                    'Tell the person that it is done: make the letter <a href="#notices">completion</a>, and send it.'
                )
            )
        if certified:
            add(Markup('Keep the <a href="#evidence">certificate</a>, or the whole case file, with your papers.'))
    elif request["status"] not in OVER:
        steps += _open(request, made, clock)
    dates = [each["due_at"] for each in request["receipts"] if each["done_at"] is None and each["due_at"]]
    if dates and request["fulfilled_at"]:
        add(Markup("Nothing to do until {}: what is left by then goes by itself."), clock.day(max(dates), law))
    if not steps:
        add(Markup("Nothing. The request is over."))
    return steps


def _open(request: Document, made: set[str], clock: Clock) -> list[Markup]:
    """Of a request that still needs an answer."""
    identity, law = request["identity"], request["jurisdiction"]
    due = clock.day(request["due_at"], law)
    steps = []
    if not made and not request["confirm_by"]:
        steps.append(Markup('Tell the person that it has come: make an <a href="#notices">acknowledgement</a>.'))
    if request["status"] == "needs-attention":
        steps.append(Markup("Decide, or ask an engineer: the reason is above. The answer is due {}.").format(due))
    elif request["status"] == "held" and identity["status"] == "asked":
        until = clock.day(identity["until"], law)
        steps.append(Markup("Note the proof of identity when it comes; you wait for it until {}.").format(until))
    elif request["status"] == "held" and identity["status"] == "refused":
        steps.append(Markup("Refuse the request, or note the proof if it comes after all."))
    elif request["status"] == "held" and not request["proposal"]:
        steps.append(Markup("End the hold once its reason is over. The answer is due {}.").format(due))
    elif request["status"] != "held":
        forecasts = [row["forecast_at"] for row in request["outcomes"] if row["forecast_at"]]
        if forecasts:
            said = Markup("Nothing else to do: the models are replaced by {}, by forecast. The answer is due {}.")
            steps.append(said.format(clock.time(max(forecasts)), due))
        else:
            steps.append(Markup("Nothing else to do: the service carries it out. The answer is due {}.").format(due))
    return steps
