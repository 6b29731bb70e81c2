"""A stateful model of the API: two tenants, a key of each role, requests through their legal life, jobs that run,
crash and are retried. After each step the database holds what `app.recovery.checker` asks for, and what the model says.

`make stateful` takes more steps: LETHE_TEST_STEPS says how many.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, update

from app import jobs
from app.blobs.open import open_blobs
from app.core import db, keys
from app.core.config import Settings
from app.core.tables import AuditEvent, DeletionRequest, Job, Tenant
from app.recovery import checker
from app.rules.roles import ROLES
from app.rules.states import TERMINAL_JOBS
from tests.app.recovery.test_checker import swept
from tests.conftest import POSTGRES
from tests.support import QUICK_MODEL, QUICK_POLICY, Account, scratch_database
from tests.trained import Trained, open_account

STEPS = int(os.environ.get("LETHE_TEST_STEPS", "0"))  # 0: what the default suite takes
STEPS_OF_A_RUN = 50
ABSENT = "0" * 26
OPEN, ENDED = ("accepted", "held"), ("refused", "cancelled")
VERBS = {  # verb: decisions that it is allowed in, the one that follows; None: no change
    "cancel": (OPEN, "cancelled"),
    "refuse": (OPEN, "refused"),
    "hold": (("accepted",), "held"),
    "release": (("held",), "accepted"),
    "extend": (OPEN, None),
    "confirm": ((*OPEN, *ENDED), None),
}
SMALL = QUICK_POLICY | {"escalation": [], "attack": {"name": "pgd_l2", "params": {"steps": 2}}}


@dataclass
class Known:
    """A request as the model knows it. `done`: a job has published for it, or its samples are erased."""

    id: str
    tenant: int
    ids: list[str]
    decision: str = "accepted"
    done: bool = False
    extended: bool = False
    confirmed: bool = False


@dataclass
class Side:
    """A tenant: a token of each role, its dataset and model, the ids that nobody asked for."""

    tokens: dict[str, str]
    dataset: str
    model: str
    free: list[str]
    revoked: list[str] = field(default_factory=list)


@dataclass
class Ground:
    """What every run begins with a copy of."""

    folder: Path
    url: str
    sides: list[Side]


def prepare(account: Account) -> list[Side]:
    """A second tenant beside the first, each with a trained model, and a key of each role."""
    sides = []
    with account.database.write() as session:
        session.add(Tenant(id="ten_second", name="second", created_at=db.now(session)))
        session.flush()
        owners = [keys.create(session, name, "owner")[1] for name in (keys.FIRST_TENANT, "ten_second")]
    for owner in owners:
        account.http.headers["Authorization"] = f"Bearer {owner}"
        tokens = {"owner": owner}
        for role in ("officer", "engineer", "auditor"):
            made = account.post("/v1/api-keys", {"name": role, "scopes": list(ROLES[role])})
            tokens[role] = made["token"]
        dataset = account.digits()["id"]
        body = {"name": "m", "dataset": dataset, **QUICK_MODEL, "policy": SMALL}
        model = account.post("/v1/models", body)["id"]
        account.post(f"/v1/models/{model}:train", {"seed": 1})
        account.work()
        sides.append(Side(tokens, dataset, model, account.training_ids(dataset)[:400]))
    return sides


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("ground") / "data"
    with ExitStack() as stack:
        url = stack.enter_context(scratch_database(POSTGRES)) if request.param == "postgres" else ""
        with open_account(Settings(data_dir=folder, database_url=url)) as account:
            sides = prepare(account)
        yield Ground(folder, url, sides)


class Service(RuleBasedStateMachine):
    """`ground` is set on a subclass."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        place = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copytree(self.ground.folder, place / "data")
        url = self.ground.url
        if url:
            url = self.stack.enter_context(scratch_database(POSTGRES, url.rpartition("/")[2]))
        self.account = self.stack.enter_context(open_account(Settings(data_dir=place / "data", database_url=url)))
        self.sides = [Side(dict(side.tokens), side.dataset, side.model, list(side.free)) for side in self.ground.sides]
        self.requests: list[Known] = []
        self.rng = random.Random(0)
        self.posted = 0
        self.trace: list[str] = []

    def teardown(self) -> None:
        """Whatever was begun ends, and then nothing at all may be left."""
        failure = sys.exc_info()[1]
        try:
            if failure is not None:
                print("\n".join([*self.trace, repr(failure)]))  # a second run need not go the same way
                return
            for known in self.requests:
                if known.decision == "held":
                    self.verb_on(known, "release")
            self.finish()
            for known in self.requests:
                shown = self.read(known)
                assert (shown["status"] == "fulfilled") == (known.decision not in ENDED), shown
            trained = Trained(self.account, self.sides[0].dataset, self.sides[0].model, [])
            swept(trained)
            found = checker.check(self.account.database, open_blobs(self.account.settings), at_rest=True)
            assert [each for each in found if each.rule != "outbox"] == []
        finally:
            self.stack.close()

    # -- calls -------------------------------------------------------------------------------------

    def call(self, method: str, path: str, token: str, **how: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", **how.pop("headers", {})}
        reply = self.account.http.request(method, path, headers=headers, **how)
        self.trace.append(f"{method} {path} {how.get('json', '')} {reply.status_code}")
        assert reply.status_code < 500, reply.text
        return reply

    def read(self, known: Known) -> Any:
        return self.call("GET", f"/v1/deletion-requests/{known.id}", self.sides[known.tenant].tokens["owner"]).json()

    def size(self) -> tuple[int, int, int]:
        """Rows of what a refused call must not add to."""
        with self.account.database.read() as session:
            return tuple(
                session.scalars(select(func.count()).select_from(table)).one()
                for table in (DeletionRequest, Job, AuditEvent)
            )  # type: ignore[return-value]

    # -- what people do ----------------------------------------------------------------------------

    who = strategies.sampled_from([(side, role) for side in (0, 1) for role in ("owner", "officer", *ROLES)])

    @initialize(seed=strategies.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng.seed(seed)

    @rule(who=who, of=strategies.integers(0, 1), count=strategies.integers(1, 3), twice=strategies.booleans())
    def ask(self, who: tuple[int, str], of: int, count: int, twice: bool) -> None:
        """A deletion: accepted of the own tenant with the scope, else refused as if nothing were there."""
        side, role = who
        token, about = self.sides[side].tokens[role], self.sides[of]
        ids = [about.free[self.rng.randrange(len(about.free))] for _ in range(1)]
        ids = list(dict.fromkeys(ids + self.rng.sample(about.free, count - 1)))
        self.posted += 1
        body = {"dataset": about.dataset, "sample_ids": ids}
        before = self.size()
        replies = [
            self.call("POST", "/v1/deletion-requests", token, json=body, headers={"Idempotency-Key": f"k{self.posted}"})
            for _ in range(2 if twice else 1)
        ]
        if "request" not in ROLES[role]:
            assert [reply.status_code for reply in replies] == [403] * len(replies)
        elif side != of:
            assert [reply.status_code for reply in replies] == [404] * len(replies)
        else:
            assert [reply.status_code for reply in replies] == [202] * len(replies), replies[0].text
            made = {reply.json()["id"] for reply in replies}
            assert len(made) == 1
            self.requests.append(Known(made.pop(), of, ids))
            about.free = [name for name in about.free if name not in ids]
            return
        assert self.size() == before

    @precondition(lambda self: self.requests)
    @rule(who=who, verb=strategies.sampled_from(sorted(VERBS)), whole=strategies.booleans())
    def decide(self, who: tuple[int, str], verb: str, whole: bool) -> None:
        known = self.rng.choice(self.requests)
        self.verb_on(known, verb, *who)

    def verb_on(self, known: Known, verb: str, side: int | None = None, role: str = "owner") -> None:
        side = known.tenant if side is None else side
        token = self.sides[side].tokens[role]
        body = {} if verb in ("release", "confirm") else {"reason": "as the rules say"}
        where = f"/v1/deletion-requests/{known.id}:{verb}"
        before = self.size()
        reply = self.call("POST", where, token, json=body)
        allowed, after = VERBS[verb]
        if "request" not in ROLES[role]:
            assert reply.status_code == 403
        elif side != known.tenant:
            absent = self.call("POST", f"/v1/deletion-requests/del_{ABSENT}:{verb}", token, json=body)
            assert reply.status_code == absent.status_code == 404
            assert without_id(reply) == without_id(absent)
        else:
            stops = verb in ("cancel", "refuse", "hold")
            fine = known.decision in allowed and not (stops and known.done)
            fine &= not (verb == "extend" and (known.extended or known.done))
            fine &= not (verb == "confirm" and known.confirmed)
            if verb == "extend" and known.done:
                assert reply.status_code in (200, 409)  # published, and not fulfilled yet: it may still be extended
                known.extended |= reply.status_code == 200
                return
            assert reply.status_code == (200 if fine else 409), (verb, known, reply.text)
            if fine:
                known.decision = after or known.decision
                known.extended |= verb == "extend"
                known.confirmed |= verb == "confirm"
                if known.decision in ENDED:
                    self.sides[known.tenant].free += known.ids
                return
        assert self.size() == before

    @precondition(lambda self: self.requests)
    @rule(who=who)
    def look(self, who: tuple[int, str]) -> None:
        """A request is seen by its tenant; for another it is not there."""
        side, role = who
        known = self.rng.choice(self.requests)
        reply = self.call("GET", f"/v1/deletion-requests/{known.id}", self.sides[side].tokens[role])
        listed = self.call("GET", "/v1/deletion-requests?page_size=100", self.sides[side].tokens[role]).json()
        mine = {each.id for each in self.requests if each.tenant == side}
        assert {item["id"] for item in listed["items"]} <= mine
        if side == known.tenant:
            status = reply.json()["status"]
            stopped = status if status in ("held", *ENDED) else "accepted"
            assert stopped == known.decision, (status, known)
        else:
            absent = self.call("GET", f"/v1/deletion-requests/del_{ABSENT}", self.sides[side].tokens[role])
            assert (reply.status_code, without_id(reply)) == (404, without_id(absent))

    @rule(side=strategies.integers(0, 1))
    def revoke(self, side: int) -> None:
        """A key that is revoked opens nothing from then on; another of its role takes its place."""
        of = self.sides[side]
        made = self.call(
            "POST", "/v1/api-keys", of.tokens["owner"], json={"name": "auditor", "scopes": list(ROLES["auditor"])}
        ).json()
        old, of.tokens["auditor"] = of.tokens["auditor"], made["token"]
        number = old.removeprefix("lethe_").split("_")[0]
        listed = self.call("GET", "/v1/api-keys?page_size=100", of.tokens["owner"]).json()["items"]
        name = next(each["id"] for each in listed if each["id"].endswith(number))
        assert self.call("DELETE", f"/v1/api-keys/{name}", of.tokens["owner"]).status_code == 204
        assert self.call("GET", "/v1/jobs", old).status_code == 401

    @precondition(lambda self: self.requests)
    @rule(who=who)
    def compare(self, who: tuple[int, str]) -> None:
        """An exact retrain without a request's samples: who operates may ask for it, on the own tenant's model."""
        side, role = who
        known = self.rng.choice(self.requests)
        body = {"compare_only": True, "exclude_request": known.id, "seed": 3}
        where = f"/v1/models/{self.sides[known.tenant].model}:train"
        before = self.size()
        reply = self.call("POST", where, self.sides[side].tokens[role], json=body)
        if "operate" not in ROLES[role] or side != known.tenant:
            assert reply.status_code == (404 if "operate" in ROLES[role] else 403)
            assert self.size() == before
        elif known.decision == "accepted" and not known.done:
            assert reply.status_code in (202, 409), reply.text
        else:
            assert reply.status_code in (202, 409, 422), reply.text

    # -- what workers do ---------------------------------------------------------------------------

    @rule()
    def work(self) -> None:
        """One job, to its end."""
        from worker.run_one import run_one

        self.trace.append("work")
        run_one(self.account.resources, "worker")
        self.learn()

    @rule()
    def crash(self) -> None:
        """A worker takes a job and is never seen again; its lease runs out."""
        database = self.account.database
        claim = jobs.claim(database, "gone", 60.0)
        if claim is None:
            return
        self.trace.append(f"crash of {claim.kind} {claim.id}")
        with database.write() as session:
            past = db.now(session) - timedelta(seconds=1)
            session.execute(update(Job).where(Job.id == claim.id).values(lease_until=past))
        jobs.sweep(database, 30.0)
        with pytest.raises(jobs.LeaseLostError), database.write() as session:
            jobs.fenced(session, claim)

    @rule()
    def sweep(self) -> None:
        self.trace.append("sweep")
        swept(Trained(self.account, self.sides[0].dataset, self.sides[0].model, []))

    def learn(self) -> None:
        for known in self.requests:
            outcomes = self.read(known)["outcomes"]
            known.done |= any(each["state"] in ("published", "purged") for each in outcomes)

    def finish(self) -> None:
        """Retry what was given up, and work until nothing is left."""
        for _ in range(20):
            self.account.work()
            with self.account.database.read() as session:
                dead = session.execute(
                    select(Job.id, Job.tenant_id).where(Job.state.in_(["dead", "failed", "rejected"]))
                ).all()
            revived = 0
            for job, tenant in dead:
                token = self.sides[0 if tenant == keys.FIRST_TENANT else 1].tokens["owner"]
                revived += self.call("POST", f"/v1/jobs/{job}:retry", token, json={}).status_code == 200
            if not revived:
                break
        with self.account.database.read() as session:
            assert set(session.scalars(select(Job.state))) <= {state.value for state in TERMINAL_JOBS}
        self.learn()

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        found = checker.check(self.account.database, open_blobs(self.account.settings), thorough=False)
        assert found == []
        with self.account.database.read() as session:
            decisions = dict(session.execute(select(DeletionRequest.id, DeletionRequest.decision)).all())
        assert decisions == {known.id: known.decision for known in self.requests}


def without_id(reply: Any) -> dict[str, Any]:
    """A problem document but for the id of its call."""
    return {name: value for name, value in reply.json().items() if name not in ("request_id", "instance")}


def test_the_api_behaves_as_its_model(ground: Ground) -> None:
    machine = type("Bound", (Service,), {"ground": ground})
    runs = -(-STEPS // STEPS_OF_A_RUN) if STEPS else 1
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS_OF_A_RUN if STEPS else 30,
            deadline=None,
            phases=[Phase.generate],  # what failed is printed as it went: to shrink it takes hours
            database=None,
            derandomize=not STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )
