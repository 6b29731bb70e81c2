"""What the client raises.

LetheError
├── ProblemError        the service refused: its problem document (RFC 9457)
├── JobFailedError      a job ended otherwise than `succeeded`
├── UnreachableError    no answer, after every retry
├── WaitTimeoutError    what was waited for is not done yet; it goes on
└── TransferError       bytes arrived that do not have the stated digest
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LetheError(Exception):
    """Of every error that this client raises by itself."""


class ProblemError(LetheError):
    """A refusal, by the members of its problem document; `kind` is the last part of `type`.

    `tried_again`: a try before this one went unanswered, and may have done what was asked for.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], *, tried_again: bool = False) -> None:
        self.status, self.tried_again = status, tried_again
        self.type: str = problem.get("type", "about:blank")
        self.kind = self.type.rpartition("/")[2]
        self.title: str = problem.get("title", f"HTTP {status}")
        self.detail: str = problem.get("detail", self.title)
        self.errors: list[dict[str, Any]] = list(problem.get("errors", []))
        self.problem = dict(problem)
        super().__init__(in_words(problem, self.detail))


class JobFailedError(LetheError):
    """`job` is its document, `problem` why it ended so."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = dict(job)
        self.problem: dict[str, Any] = dict(job["problem"] or {})
        super().__init__(in_words(self.problem, f"the job is {job['state']}"))


class UnreachableError(LetheError):
    pass


class WaitTimeoutError(LetheError, TimeoutError):
    pass


class TransferError(LetheError):
    pass


def in_words(problem: Mapping[str, Any], otherwise: str) -> str:
    """The detail of a problem and its first faults, a line each."""
    lines = [problem.get("detail", otherwise)]
    for fault in problem.get("errors", [])[:5]:
        words = (fault.get("pointer"), fault.get("detail") or fault.get("code"))
        lines.append("  " + ": ".join(str(word) for word in words if word))
    return "\n".join(lines)
