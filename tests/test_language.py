"""Plain words: pages, messages and the report use the glossary, true minus signs and sentences one can read.

Pages are checked as prose, without code, formulas and addresses. Messages are the string literals of the source (help
texts, problem details, event names) and the report's template. Docstrings count where people read them as messages:
those of commands and of HTTP routes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SOURCE = ("app", "engine", "experiments", "lethe", "worker")
LONGEST = 40  # words of a sentence; the aim is 25

FORBIDDEN = {
    # one word for each thing
    r"withdr[ae]w[a-z]*": "cancel",
    r"destroy[a-z]*": "erase (bytes), delete (a key, a salt, a backup)",
    r"certificate holds|(?-i:DOES NOT HOLD)": "verified, not verified",
    # private metaphors
    r"rungs?": "step of the escalation",
    r"climb[a-z]*": "escalate",
    r"ladders?": "escalation",
    r"bells?|rings?|rang": "trigger",
    r"knock[a-z]*": "hint",
    r"lets? go|letting go": "release",
    r"desks?": "resources",
    r"workpieces?": "loaded model",
    r"chores?": "job",
    r"standing": "say what stays, and for how long",
    r"told": "say who sends or shows it to whom",
    r"(?<!the )(?<!legal )(?<![-_/])grounds?(?!-)": "only the law's word for why a request is made: 'the ground', "
    "'legal ground'",
    # pronouns and clauses in place of nouns
    r"so (?:many|much|long|often|few)": "give the number, or name the thing",
    r"for want of": "without",
    r"who(?:m|so)?ever|whatever": "name the person or the thing",
    # sentences that hide who acts
    r"owed|owes": "say who has to do it",
    r"(?:is|are|was|were) meant": "say who wants it",
    r"may be asked": "say who may do it",
}
"""Each with the word to use. Letters alone bound a word, so that `gate_climbs` is found too."""

EXEMPT = {
    "app/deletions/batches.py": {"rung"},
    "app/formats/audit_report.py": {"rung", "rungs", "climb"},
    "app/jobs/ending.py": {"rung"},
    "app/operations/metrics.py": {"gate.climbed"},
    "app/rules/policy.py": {"ladder"},
    "app/rules/states.py": {"withdrawn"},
    "lethe/verify.py": {"ground"},
}
"""Literals that a file needs: names that an earlier version stored or sent, and a certificate's member for the law's
ground."""
LAW = {"ground"}
"""Literals that are the name of the law's ground, as a member of the API."""
SHOWN = {"command", "callback", "get", "post", "put", "delete"}
"""Decorators under which a docstring becomes a help text or a description of the API."""

CODE = re.compile(r"^( *)```.*?^\1```[^\n]*$|^(?: {4,}|\t)[^\n]*$|<!--.*?-->", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)")
TARGET = re.compile(r"\[[^\[\]]*\]\(([^)\s]+)\)")
START = re.compile(r"^ *(?:[-*] |\d+\. |#+ |> )")
HYPHEN = re.compile(r"(?<![\w)\]+./-])-\d")


def forbidden(text: str) -> Iterator[str]:
    for pattern, instead in FORBIDDEN.items():
        for found in re.finditer(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", text, re.IGNORECASE):
            yield f"{found[0]!r}: {instead}"


def blocks(page: str) -> Iterator[str]:
    """Paragraphs, list items, headings and table cells of a page, without code, comments and addresses."""
    text = LINK.sub(r"\1", re.sub(r"`[^`]+`", "Code", CODE.sub("", page)))
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        row = line.strip().startswith("|")
        if not line.strip() or row or START.match(line):
            if block:
                yield " ".join(block)
            block = []
        if row:
            yield from (cell.strip() for cell in line.strip().strip("|").split("|"))
        elif line.strip():
            block.append(START.sub("", line).strip())


def sentences(block: str) -> list[str]:
    return re.split(r"(?<=[.!?])[*)\"]*\s+(?=[^a-z])", block)


def faults_of_page(page: str) -> Iterator[str]:
    for block in blocks(page):
        yield from forbidden(block)
        yield from (f"hyphen for a minus sign: {found[0]}" for found in HYPHEN.finditer(block))
        for sentence in sentences(block):
            if (words := len(re.findall(r"\w[\w'’.,/-]*", sentence))) > LONGEST:
                yield f"{words} words: {sentence[:80]}…"


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The string literals of a module with their lines; of docstrings those of commands and routes."""
    silent = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef) and SHOWN & {_attribute(each) for each in node.decorator_list}:
            yield node.lineno, ast.get_docstring(node) or ""


def _attribute(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else ""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in SOURCE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def test_every_check_finds_its_fault() -> None:
    page = "\n\n".join(
        [
            "It climbs to the next rung, for want of a server.",
            "| figure |\n|---|\n| -0.5 |",
            " ".join(["word"] * (LONGEST + 1)) + ".",
            "`ladder` is code.\n```\nrung\n```\n    climb = -1\n<!-- bell -->[text](#ladder) of 2026-03-01.",
        ]
    )
    faults = list(faults_of_page(page))
    assert [fault.partition(":")[0] for fault in faults] == [
        "'rung'",
        "'climbs'",
        "'for want of'",
        "hyphen for a minus sign",
        f"{LONGEST + 1} words",
    ]
    code = '"""A rung."""\n@route.get("/x")\ndef f():\n    """A ladder."""\n    say(f"{x} was withdrawn")\n'
    said = [text for _, text in messages(ast.parse(code))]
    assert sorted(fault for text in said for fault in forbidden(text)) == [
        "'ladder': escalation",
        "'withdrawn': cancel",
    ]
    assert list(forbidden("lethe_gate_climbs_total, the ground of a request, during a string")) == [
        "'climbs': escalate"
    ]


def test_the_pages_use_plain_words() -> None:
    assert len(PAGES) >= 12
    wrong = [f"{path.relative_to(ROOT)}: {fault}" for path in PAGES for fault in faults_of_page(path.read_text())]
    assert not wrong, "\n".join(wrong)


def test_the_messages_use_plain_words() -> None:
    wrong = [
        f"{name}:{line}: {fault}"
        for name, tree in sources()
        for line, text in messages(tree)
        if text not in EXEMPT.get(name, set()) | LAW
        for fault in forbidden(text)
    ]
    assert not wrong, "\n".join(wrong)


CODE_OF_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


def _quoted(code: re.Match[str]) -> str:
    """Of a template's code what it may show: its quoted texts of several words. Names of fields are no words."""
    return " ".join(text for text in re.findall(r'"([^"]*)"', code[0]) if " " in text)


def test_the_templates_use_plain_words() -> None:
    paths = sorted((ROOT / "app").rglob("*.j2"))
    assert paths
    wrong = []
    for path in paths:
        text = re.sub(
            r"<style.*?</style>|<script.*?</script>|<[^>]*>|\{#.*?#\}",
            " ",
            CODE_OF_TEMPLATE.sub(_quoted, path.read_text()),
            flags=re.DOTALL,
        )
        wrong += [f"{path.relative_to(ROOT)}: {fault}" for fault in forbidden(text)]
    assert not wrong, "\n".join(wrong)


def anchors(page: str) -> set[str]:
    """The addresses of the headings of a page, as forges make them."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_links_of_the_pages_lead_somewhere() -> None:
    wrong = []
    for path in PAGES:
        for target in TARGET.findall(CODE.sub("", path.read_text())):
            file, _, anchor = target.partition("#")
            if ":" in file:
                continue
            found = (path.parent / file).resolve() if file else path
            if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
                wrong.append(f"{path.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_what_is_exempt_is_still_there() -> None:
    found = {name: {text for _, text in messages(tree)} for name, tree in sources() if name in EXEMPT}
    assert all(names <= found[name] for name, names in EXEMPT.items() if name in found)
