"""What texts must look like: the regular expressions of the OpenAPI document, and each of them in words, for people."""

from __future__ import annotations

from app.core.ids import ALPHABET

NOUNS = {
    "aud": "an audit",
    "del": "a deletion request",
    "dst": "a dataset",
    "job": "a job",
    "key": "an API key",
    "mdl": "a model",
    "msg": "a delivery",
    "ntc": "a notice",
    "pap": "a paper of a case",
    "ver": "a version",
    "whk": "a webhook",
}

NAMED = ("dst", "mdl")
"""Those whose names stand for their ids."""


def id_pattern(prefix: str) -> str:
    return rf"^{prefix}_[{ALPHABET}]{{26}}$"


def reference(prefix: str) -> str:
    """An id, or a name that a path can hold."""
    return rf"^({prefix}_[{ALPHABET}]{{26}}|[^\x00-\x1f\x7f/:]{{1,200}})$"


NAME = r"^[^\x00-\x1f\x7f]+$"
SAMPLE_ID = r"^[^\x00]+$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
DEVICE_LABEL = r"^[a-z0-9][a-z0-9_-]{0,39}$"
ARCHITECTURE = r"^[a-z0-9_]{1,60}$"
ALIAS = r"^[a-z][a-z0-9-]{0,59}$"
EVENT = r"^[a-z-]{1,30}\.([a-z-]{1,30}|\*)$"
URL = r"^[\x21-\x7e]+$"
IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,255}$"
DAY = r"^\d{4}-\d\d-\d\d$"
DAY_OR_MOMENT = r"^\d{4}-\d\d-\d\d([Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d))?$"
MOMENT = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)$"

WORDS = (
    {
        id_pattern(prefix): f"the id of {noun}: `{prefix}_` and 26 characters"
        for prefix, noun in NOUNS.items()
        if prefix not in NAMED
    }
    | {reference(prefix): f"the id of {NOUNS[prefix]} (`{prefix}_` and 26 characters), or its name" for prefix in NAMED}
    | {
        NAME: "a text without control characters",
        SAMPLE_ID: "a text without the NUL character",
        DIGEST: "a digest: `sha256:` and 64 hexadecimal digits",
        DEVICE_LABEL: "1 to 40 of `a-z`, `0-9`, `_` and `-`, a letter or digit first",
        ARCHITECTURE: "1 to 60 of `a-z`, `0-9` and `_`",
        ALIAS: "1 to 60 of `a-z`, `0-9` and `-`, a letter first",
        EVENT: "a kind such as `version.unlearned`, or `version.*`",
        URL: "visible ASCII without spaces",
        IDEMPOTENCY_KEY: "1 to 255 visible ASCII characters without spaces",
        DAY: "a day, such as `2026-03-01`",
        DAY_OR_MOMENT: "a day, such as `2026-03-01`, or an RFC 3339 time with a zone",
        MOMENT: "an RFC 3339 time with a zone, such as `2026-03-01T00:00:00Z`",
    }
)
