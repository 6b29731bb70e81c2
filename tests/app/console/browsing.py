"""A browser without a screen: signs in, reads pages, sends the forms that are in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from fastapi.testclient import TestClient

from app.core import keys, users
from app.core.db import Database

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
COOKIE = "lethe-session"
HOSTILE = '"><script>alert(1)</script>=HYPERLINK(1)\u202egnp.exe {{7*7}} javascript:alert(1)'


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """What is in a page: its forms, its text, and whatever could run or fetch something."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.status, self.source = response.status_code, response.text
        self.forms: list[Form] = []
        self.text, self.title = "", ""
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._in = ""
        self._area: tuple[Form, str] | None = None
        self.feed(response.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self._in = tag
        if tag == "form":
            self.forms.append(Form(values.get("action", "")))
        elif tag == "input" and self.forms and "name" in values:
            if values.get("type") not in ("checkbox", "radio") or "checked" in values:
                self.forms[-1].fields[values["name"]] = values.get("value", "on")
        elif tag == "textarea" and self.forms:
            self._area = self.forms[-1], values["name"]
            self.forms[-1].fields[values["name"]] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            form, name = self._area
            form.fields[name] += data.removeprefix("\n") if not form.fields[name] else data
        if self._in == "title":
            self.title += data
        self.text += f"{data} "

    def form(self, ending: str) -> Form:
        return next(form for form in self.forms if form.action.endswith(ending))

    def has(self, words: str) -> bool:
        return words in " ".join(self.text.split())


class Browser:
    def __init__(self, http: TestClient) -> None:
        self.http = http
        http.headers.update(HTML)

    def open(self, path: str, status: int = 200) -> Page:
        response = self.http.get(path)
        assert response.status_code == status, response.text
        return Page(response)

    def send(self, form: Form, status: int = 200, follow: bool = True, **typed: str) -> Page:
        response = self.http.post(form.action, data={**form.fields, **typed}, follow_redirects=follow)
        assert response.status_code == status, response.text
        return Page(response)

    @property
    def token(self) -> str:
        return self.http.cookies[COOKIE]


def link(database: Database, role: str, tenant: str = keys.FIRST_TENANT, name: str = "Ada") -> str:
    with database.write() as session:
        return users.make_link(session, users.named(session, tenant, name, role))


@contextmanager
def browser(app: Any, database: Database, role: str = "", tenant: str = keys.FIRST_TENANT) -> Iterator[Browser]:
    """A browser of its own, signed in where a role is given. The application runs already."""
    http = TestClient(app, raise_server_exceptions=False)
    try:
        found = Browser(http)
        if role:
            found.send(Form("/console/sign-in/link", {"token": link(database, role, tenant, role)}))
        yield found
    finally:
        http.close()


def inert(page: Page, text: str) -> bool:
    """The text is there as text, and no script, image or handler has come of it."""
    assert not [tag for tag, values in page.tags if tag in ("img", "svg") and "onerror" in values]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "\u202e" not in page.title
    return " ".join(text.split()) in " ".join(page.text.split())
