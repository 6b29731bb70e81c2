"""Webhooks against a real receiver: signed, tried again, switched off, replayed, rotated; nobody waits for the slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.core import crash_points, db
from app.core.config import Settings, get_settings
from app.core.db import Database
from app.core.ids import new_id
from app.core.tables import Delivery, Tenant, Webhook
from app.events import deliveries, webhooks
from app.events.deliveries import Courier
from app.main import create_app
from tests import zygote
from tests.faults.harness import ended
from tests.helpers import as_other, is_problem
from tests.receiver import Receiver, receiver
from tests.support import Account, Document, eventually


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiver(tmp_path_factory.mktemp("receiver")) as found:
        yield found


@pytest.fixture
def there(listening: Receiver) -> Receiver:
    """The receiver, with an empty record."""
    listening.record.write_text("")
    return listening


@pytest.fixture
def open_house(settings: Settings, database: Database) -> Iterator[Account]:
    """A service that may call private addresses."""
    allowed = settings.model_copy(update={"webhooks_to_private": True})
    with TestClient(create_app(allowed), raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {settings.key_file.read_text().strip()}"
        yield Account(allowed, database, http)


def hook(account: Account, url: str, **fields: Any) -> Document:
    return account.post("/v1/webhooks", {"url": url, **fields})


def tell(account: Account, kind: str = "request.accepted") -> None:
    with account.database.write() as session:
        deliveries.fan_out(session, "ten_first", kind, "del_1", db.now(session))


def send(account: Account, made: Document) -> int:
    return deliveries.send_due(account.database, made["id"], allow_private=True)


def listed(account: Account, made: Document) -> list[Document]:
    found: list[Document] = account.get(f"/v1/webhooks/{made['id']}/deliveries")["items"]
    return found


def make_due(account: Account) -> None:
    """Let the time until the next attempt pass."""
    with account.database.write() as session:
        session.execute(update(Delivery).where(Delivery.due_at.is_not(None)).values(due_at=db.now(session)))


# -- one receiver ----------------------------------------------------------------------------------


@pytest.mark.validation
def test_a_message_arrives_once_signed_and_thin(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/ok")
    assert made["secret"].startswith("whsec_")
    assert "secret" not in open_house.get(f"/v1/webhooks/{made['id']}")
    tell(open_house)
    assert send(open_house, made) == 1
    assert send(open_house, made) == 0
    [got] = there.got()
    assert got.signed_by(made["secret"])
    assert not got.signed_by(webhooks.new_secret())
    assert got.event["type"] == "request.accepted"
    assert got.event["data"] == {"id": "del_1"}
    assert got.headers["content-type"] == "application/json"
    [delivery] = listed(open_house, made)
    assert (delivery["id"], delivery["state"], delivery["attempts"]) == (got.id, "delivered", 1)
    assert (delivery["last_error"], delivery["due_at"]) == (None, None)


@pytest.mark.validation
def test_only_wanted_kinds_are_sent(open_house: Account, there: Receiver) -> None:
    some = hook(open_house, f"{there.url}/ok-some", events=["request.fulfilled", "version.*"])
    for kind in ("request.accepted", "request.fulfilled", "version.unlearned"):
        tell(open_house, kind)
    send(open_house, some)
    assert [got.event["type"] for got in there.got()] == ["request.fulfilled", "version.unlearned"]


def test_a_failure_is_tried_again_later_under_the_same_id(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/failing-2")
    tell(open_house)
    assert send(open_house, made) == 1
    [first] = listed(open_house, made)
    assert (first["state"], first["attempts"], first["last_error"]) == ("pending", 1, "answered 500")
    assert first["due_at"] > first["created_at"]
    assert send(open_house, made) == 0  # not due yet
    for _ in range(2):
        make_due(open_house)
        assert send(open_house, made) == 1
    assert listed(open_house, made)[0]["state"] == "delivered"
    assert len({got.id for got in there.got()}) == 1
    assert len(there.got()) == 3
    assert all(got.signed_by(made["secret"]) for got in there.got())


@pytest.mark.validation
def test_a_receiver_that_fails_is_not_given_the_rest(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/failing-9")
    for _ in range(5):
        tell(open_house)
    assert send(open_house, made) == 1
    assert len(there.got()) == 1


def test_after_three_days_of_failures_a_delivery_is_given_up_and_may_be_replayed(
    open_house: Account, there: Receiver
) -> None:
    made = hook(open_house, f"{there.url}/failing-10")
    tell(open_house)
    for _ in range(len(webhooks.RETRY_SECONDS) + 1):
        make_due(open_house)
        assert send(open_house, made) == 1
    [failed] = listed(open_house, made)
    assert (failed["state"], failed["due_at"]) == ("failed", None)
    replayed = open_house.post(f"/v1/webhooks/{made['id']}/deliveries/{failed['id']}:replay", status=202)
    assert (replayed["state"], replayed["attempts"]) == ("pending", 0)
    assert send(open_house, made) == 1
    assert listed(open_house, made)[0]["state"] == "delivered"
    assert len({got.id for got in there.got()}) == 1
    is_problem(
        open_house.http.post(f"/v1/webhooks/{made['id']}/deliveries/msg_{'0' * 26}:replay", json={}), 404, "not-found"
    )


def test_a_receiver_that_is_gone_is_switched_off(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/gone")
    for _ in range(2):
        tell(open_house)
    assert send(open_house, made) == 1
    assert open_house.get(f"/v1/webhooks/{made['id']}")["disabled_at"]
    make_due(open_house)
    assert send(open_house, made) == 0
    tell(open_house)
    waiting = listed(open_house, made)
    assert len(waiting) == 2
    assert len(there.got()) == 1
    where = f"/v1/webhooks/{made['id']}/deliveries/{waiting[0]['id']}:replay"
    is_problem(open_house.http.post(where, json={}), 409, "webhook-off")


@pytest.mark.validation
def test_a_redirect_is_a_failure_and_is_not_followed(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/moved")
    tell(open_house)
    send(open_house, made)
    assert [got.path for got in there.got()] == ["/moved"]
    [delivery] = listed(open_house, made)
    assert (delivery["state"], delivery["last_error"]) == ("pending", "answered 307")


def test_for_a_day_after_a_rotation_both_secrets_sign(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/ok")
    key = {"Idempotency-Key": "once"}
    newer = open_house.post(f"/v1/webhooks/{made['id']}:rotate-secret", **key)
    assert newer["secret"] != made["secret"]
    assert open_house.post(f"/v1/webhooks/{made['id']}:rotate-secret", **key).get("secret") is None
    tell(open_house)
    send(open_house, made)
    with open_house.database.write() as session:
        late = db.now(session) - timedelta(seconds=1)
        session.execute(update(Webhook).values(old_until=late))
    tell(open_house)
    send(open_house, made)
    during, after = there.got()
    assert during.signed_by(made["secret"])
    assert during.signed_by(newer["secret"])
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    assert after.signed_by(newer["secret"])
    assert not after.signed_by(made["secret"])


@pytest.mark.validation
def test_another_tenants_webhook_is_as_one_that_is_not_there(open_house: Account, there: Receiver) -> None:
    made = hook(open_house, f"{there.url}/ok")
    other = as_other(open_house)
    for method, path in (("GET", ""), ("GET", "/deliveries"), ("POST", ":rotate-secret"), ("DELETE", "")):
        response = open_house.http.request(method, f"/v1/webhooks/{made['id']}{path}", headers=other)
        is_problem(response, 404, "not-found")


# -- several receivers -----------------------------------------------------------------------------


def delivered(account: Account) -> dict[str, str]:
    with account.database.read() as session:
        query = select(Webhook.url, Delivery.state).join(Delivery, Delivery.webhook_id == Webhook.id)
        return {url.rpartition("/")[2]: state for url, state in session.execute(query)}


def test_a_receiver_that_says_nothing_holds_nobody_up(
    open_house: Account, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 5.0)
    for name in ("slow-1", "slow-2", "slow-3", "slow-4", "slow-5", "slow-6"):
        hook(open_house, f"{there.url}/{name}")
    with open_house.database.write() as session:
        now = db.now(session)
        session.add(Tenant(id="ten_other", name="other", created_at=now))
        session.flush()
        session.add(
            Webhook(
                id=new_id("whk"), tenant_id="ten_other", url=f"{there.url}/ok-other", secret=webhooks.new_secret(),
                events=[], created_at=now,
            )
        )  # fmt: skip
    tell(open_house)
    with open_house.database.write() as session:
        deliveries.fan_out(session, "ten_other", "request.accepted", "del_2", db.now(session))
    courier = Courier(open_house.database, allow_private=True)
    assert courier.round() == deliveries.LANES_OF_TENANT + 1
    eventually(lambda: delivered(open_house)["ok-other"] == "delivered", "the other tenant's message", 4)
    assert courier.round() == 0  # the slow ones have their lanes still
    states = delivered(open_house)
    assert [states[name] for name in states if name.startswith("slow")] == ["pending"] * 6
    eventually(lambda: courier.round() or len(there.got()) >= 7, "the slow ones to be cut off, and the rest")
    eventually(lambda: not courier._busy, "the last of them to end")


def send_and_die(settings: Settings, webhook_id: str) -> None:
    get_settings.cache_clear()
    crash_points.get_settings = lambda: settings.model_copy(update={"crash_at": "delivery.sent"})
    deliveries.send_due(Database(settings), webhook_id, allow_private=True)


@pytest.mark.validation
def test_a_crash_between_sending_and_recording_repeats_a_message_under_its_id(
    open_house: Account, there: Receiver
) -> None:
    made = hook(open_house, f"{there.url}/ok")
    tell(open_house)
    with ended(zygote.call(send_and_die, open_house.settings, made["id"])) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert len(there.got()) == 1
    assert listed(open_house, made)[0]["attempts"] == 0
    assert send(open_house, made) == 1
    first, second = there.got()
    assert first.id == second.id
    assert first.body == second.body
    assert listed(open_house, made)[0]["state"] == "delivered"
