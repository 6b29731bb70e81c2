"""The contract of plug-ins: what an entry may be, and what `installed()` says of packages that break the rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lethe.plugins import GROUP, KINDS, Entry, PluginError, installed

SCHEMA = {
    "type": "object",
    "properties": {"shift": {"type": "integer", "minimum": 1, "default": 1}},
    "additionalProperties": False,
}
GOOD: dict[str, Any] = {
    "kind": "methods",
    "name": "wrong_label",
    "summary": "Fine-tunes on a wrong label.",
    "place": "wrong_label.torch_part:wrong_label",
    "parameters": SCHEMA,
    "facts": {"needs_remain": True},
    "example": {"shift": 2},
}
ENTRY = f"from lethe.plugins import Entry\nENTRY = Entry(**{GOOD!r})\n"


class Installer:
    """Puts packages on the path as an installer would: a module, and metadata with its entry points."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, package: str, code: str, target: str = "ENTRY") -> None:
        (self.folder / f"{package}.py").write_text(code)
        metadata = self.folder / f"{package}-1.5.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{package} = {package}:{target}\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.syspath_prepend(str(tmp_path))
    return Installer(tmp_path)


def test_without_plug_ins_every_kind_is_empty() -> None:
    assert installed() == {kind: {} for kind in KINDS}


def test_an_installed_plug_in_is_listed(install: Installer) -> None:
    install("plugin_good", ENTRY)
    found = installed()
    assert found["methods"] == {"wrong_label": Entry(**GOOD)}
    assert not any(entries for kind, entries in found.items() if kind != "methods")


@pytest.mark.parametrize(
    ("code", "target", "sentence"),
    [
        ("1 / 0", "ENTRY", "cannot be imported: division by zero"),
        (ENTRY, "OTHER", "cannot be imported: module 'plugin_bad' has no attribute 'OTHER'"),
        ("ENTRY = {'kind': 'methods'}", "ENTRY", "must be a `lethe.plugins.Entry`, not dict"),
        (ENTRY.replace("'methods'", "'method'"), "ENTRY", "`kind` must be one of methods, attacks"),
        ("import sys\nsys.modules['torch'] = sys\n" + ENTRY, "ENTRY", "imports torch"),
    ],
)
def test_a_plug_in_that_breaks_the_contract_is_named(install: Installer, code: str, target: str, sentence: str) -> None:
    sys.modules.pop("torch", None)
    install("plugin_bad", code, target)
    with pytest.raises(PluginError) as refused:
        installed()
    assert "`plugin_bad` of plugin_bad 1.5" in str(refused.value)
    assert sentence in str(refused.value)


def test_two_plug_ins_of_one_name_are_refused(install: Installer) -> None:
    install("plugin_one", ENTRY)
    install("plugin_two", ENTRY)
    with pytest.raises(PluginError, match=r"`plugin_two` of plugin_two .*another plug-in has `wrong_label` of methods"):
        installed()


def test_a_parameter_without_a_default_is_required() -> None:
    schema = SCHEMA | {"properties": {"shift": {"type": "integer"}}, "required": ["shift"]}
    assert Entry(**GOOD | {"parameters": schema}).parameters == schema


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "method"}, "`kind` must be one of"),
        ({"name": "Wrong-Label"}, "`name` must be"),
        ({"summary": "two\nlines"}, "`summary` must be one line"),
        ({"summary": " "}, "`summary` must be one line"),
        ({"place": "wrong_label.function"}, "`place` must be"),
        ({"facts": {"needs_remain": 1}}, "`facts`"),
        ({"example": {"shfit": 2}}, "`example` has members that `parameters` lacks: shfit"),
        ({"parameters": {"type": "object"}}, "with `properties`"),
        ({"parameters": SCHEMA | {"additionalProperties": True}}, "`additionalProperties` false"),
        (
            {"parameters": SCHEMA | {"properties": {"shift": {"type": "integer"}}}},
            "`shift` must have a `default` or be",
        ),
        ({"parameters": SCHEMA | {"title": {1, 2}}}, "is no JSON"),
    ],
)
def test_an_entry_checks_itself(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Entry(**(GOOD | change))
