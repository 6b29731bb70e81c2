"""The statutes' lists: why erasure is requested, and why it may be refused.

A ground is named by its article or section. A law's list is closed; what it does not have goes into the free words
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

GDPR_GROUNDS = {
    "17(1)(a)": "no longer necessary for the purposes",
    "17(1)(b)": "consent taken back, and no other legal ground",
    "17(1)(c)": "objection under Article 21(1), or to direct marketing under Article 21(2)",
    "17(1)(d)": "unlawfully processed",
    "17(1)(e)": "a legal obligation to erase",
    "17(1)(f)": "collected from a child for an information society service",
    "21": "objection to the processing",
}
GDPR_REFUSALS = {
    "11(2)": "the controller cannot identify the person in the data",
    "12(2)": "the person could not be identified",
    "12(5)": "manifestly unfounded or excessive",
    "17(1)": "none of the grounds of Article 17(1) applies",
    "17(3)(a)": "freedom of expression and information",
    "17(3)(b)": "a legal obligation, or a task in the public interest",
    "17(3)(c)": "public health",
    "17(3)(d)": "archiving in the public interest, research or statistics",
    "17(3)(e)": "legal claims",
}
CCPA_REFUSALS = {
    "1798.105(d)(1)": "needed for the transaction or the contract",
    "1798.105(d)(2)": "security and integrity",
    "1798.105(d)(3)": "debugging",
    "1798.105(d)(4)": "free speech, or another right by law",
    "1798.105(d)(5)": "the California Electronic Communications Privacy Act",
    "1798.105(d)(6)": "research in the public interest",
    "1798.105(d)(7)": "internal uses that the consumer expects",
    "1798.105(d)(8)": "a legal obligation",
    "1798.145": "an exemption of section 1798.145 or 1798.146",
    "7060": "the request could not be verified (regulations, section 7060)",
}
GROUNDS: Mapping[str, Mapping[str, str]] = {
    "gdpr": GDPR_GROUNDS,
    "uk-gdpr": GDPR_GROUNDS,
    "ccpa": {"1798.105": "the consumer's right to deletion"},
}
REFUSALS: Mapping[str, Mapping[str, str]] = {"gdpr": GDPR_REFUSALS, "uk-gdpr": GDPR_REFUSALS, "ccpa": CCPA_REFUSALS}


TAKEN_BACK = {
    "taken back": "the person has taken the request back",
    "entered twice": "another request has the same letter",
    "entered wrongly": "the request was entered by mistake",
}
GDPR_REASONS = {
    "extend": {"12(3), complex": "the request is complex", "12(3), many": "the number of the person's requests"},
    "hold": {
        "17(3)(b)": "a legal obligation to keep the data for now",
        "17(3)(e)": "legal claims that are being brought or defended",
        "18(1)(c)": "the person needs the data for a legal claim",
        "18(2)": "the person agrees that they are kept for now",
    },
    "cancel": TAKEN_BACK,
}
REASONS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "gdpr": GDPR_REASONS,
    "uk-gdpr": GDPR_REASONS,
    "ccpa": {
        "extend": {"1798.130(a)(2)(A)": "45 more days are reasonably necessary"},
        "hold": {
            "1798.105(d)(8)": "a legal obligation to keep the data for now",
            "1798.145(a)": "an investigation, or legal claims that are being brought or defended",
        },
        "cancel": TAKEN_BACK,
    },
}
"""What is usually said of the other decisions, by law and decision. A reason begins with it; free words may follow."""


def law_of(jurisdiction: str) -> str:
    """The statute of a jurisdiction, without its place."""
    return jurisdiction.partition(":")[0]


def require(lists: Mapping[str, Mapping[str, str]], jurisdiction: str, ground: str | None) -> None:
    """Raises ValueError: the jurisdiction's law has no such entry in that list; says which it has."""
    known = lists[law_of(jurisdiction)]
    if ground is not None and ground not in known:
        raise ValueError(f"under {law_of(jurisdiction)} it is one of: {', '.join(known)}")
