"""The table of what is refused in docs/bring-your-own.md: each answer is in the words of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()
CODE = " ".join(
    path.read_text() for folder in ("app", "engine", "worker") for path in sorted((ROOT / folder).rglob("*.py"))
)
TOO_SHORT = {"Input should be less than or equal to 1", "timm's `pretrained_cfg` lacks `mean`"}
"""Of pydantic's own, or with no three words in a row. Tests of their own hold them."""


def rows() -> list[tuple[str, str]]:
    table = PAGE.partition("## What is refused")[2]
    return [(tried, answer) for tried, answer in re.findall(r"^\| (.*?) \| (.*?) \|$", table, re.M) if tried != "Tried"]


def pieces(text: str) -> set[str]:
    """Runs of three words, without what a message fills in: numbers, names and what quotes them."""
    words = [word.strip("`,.:;()\"'") for word in text.split()]
    runs = (words[at : at + 3] for at in range(len(words) - 2))
    return {" ".join(run) for run in runs if all(word.isalpha() for word in run)}


KNOWN = pieces(re.sub(r"\"\s+f?\"", "", CODE))  # a message over several lines is one text


@pytest.mark.parametrize(("tried", "answer"), [row for row in rows() if row[1] not in TOO_SHORT])
def test_an_answer_of_the_page_is_in_the_words_of_the_code(tried: str, answer: str) -> None:
    said = pieces(answer)
    assert said, answer
    assert len(said & KNOWN) >= len(said) / 7, sorted(said - KNOWN)  # the rest is what the example fills in


def test_the_table_has_what_the_page_promises() -> None:
    assert len(rows()) >= 30
