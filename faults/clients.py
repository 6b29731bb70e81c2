"""What clients ask for, and what they were promised: a 202 is a promise that the run is held to at its end."""

from __future__ import annotations

import io
import random
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support import QUICK_POLICY

CLASSES, SIDE = 4, 8
TINY = {"architecture": {"name": "small_cnn", "params": {"width": 4}}}  # about a thousand parameters
RECIPE = {"name": "sgd", "params": {"epochs": 2, "batch_size": 64}}
POLICY = QUICK_POLICY | {
    "method": {"name": "amun", "params": {"epochs": 1, "learning_rate": 0.05, "batch_size": 64}},
    "attack": {"name": "pgd_l2", "params": {"steps": 3}},
    "escalation": [],
}
SETTING_UP_SECONDS = 300.0
AWAY = (httpx.TransportError,)
HONEST = {200, 202, 503, 429}  # what a service in trouble may say; 409 where the same call is under way


def pictures(count: int, held_out: int, seed: int) -> bytes:
    """A zip of PNG pictures in folders of split and class: each class is bright in a corner of its own, under noise."""
    draw = np.random.default_rng(seed)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for split, number in (("train", count), ("holdout", held_out)):
            for row in range(number):
                label = row % CLASSES
                image = draw.integers(0, 120, (SIDE, SIDE), np.uint8)
                y, x = divmod(label, 2)
                image[y * 4 : y * 4 + 4, x * 4 : x * 4 + 4] += 120
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                archive.writestr(f"{split}/class-{label}/person-{seed}-{row}.png", file.getvalue())
    return made.getvalue()


@dataclass
class Promise:
    """A deletion request as its client knows it. `request`: its id, once a 202 came. `first`: replies before that."""

    key: str
    dataset: str
    ids: list[str]
    request: str = ""


@dataclass
class Shop:
    """One tenant: its key, and a dataset of pictures with a trained model, the ids that nobody has asked for yet."""

    token: str
    dataset: str
    model: str
    ids: list[str]


@dataclass
class Clients:
    """Threads that ask for deletions until `stop`, each of them again and again until it has a reply."""

    url: str
    shops: list[Shop]
    seed: int
    open_requests: int = 8
    promises: list[Promise] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for number, shop in enumerate(self.shops):
            thread = threading.Thread(target=self._ask, args=(shop, random.Random(f"{self.seed}:{number}")))
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def left(self) -> int:
        return sum(len(shop.ids) for shop in self.shops)

    def _ask(self, shop: Shop, rng: random.Random) -> None:
        with self._http(shop) as http:
            while not self.stop.is_set():
                if self.paused.is_set() or not shop.ids or self._waiting(http) >= self.open_requests:
                    self.stop.wait(0.2)
                    continue
                promise = self.new(shop, rng)
                if rng.random() < 0.1:  # twice at once, as a client that does not wait does
                    with ThreadPoolExecutor(2) as pool:
                        list(pool.map(lambda _: self.keep_asking(http, promise), range(2)))  # noqa: B023
                else:
                    self.keep_asking(http, promise)
                self.stop.wait(rng.random() * 0.3)

    def _http(self, shop: Shop) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {shop.token}"}, timeout=30)

    def new(self, shop: Shop, rng: random.Random) -> Promise:
        with self._lock:
            count = min(rng.choice((1, 1, 1, 2)), len(shop.ids))
            ids = [shop.ids.pop(rng.randrange(len(shop.ids))) for _ in range(count)]
            promise = Promise(f"key-{len(self.promises)}", shop.dataset, ids)
            self.promises.append(promise)
        return promise

    def keep_asking(self, http: httpx.Client, promise: Promise) -> None:
        """Send it until the service says yes; any other reply than an honest one is wrong."""
        body = {"dataset": promise.dataset, "sample_ids": promise.ids}
        while True:
            reply = self.send(http, "POST", "/v1/deletion-requests", json=body, key=promise.key)
            if reply is not None and reply.status_code == 202:
                found = reply.json()["id"]
                if promise.request not in ("", found):
                    self.wrong.append(f"{promise.key} was promised as {promise.request} and as {found}")
                promise.request = found
                return
            if reply is not None and reply.status_code not in HONEST | {409}:
                self.wrong.append(f"{promise.key}: {reply.status_code} {reply.text[:300]}")
                return
            if self.stop.wait(0.1) and reply is not None and self.stop.wait(0.5):
                continue

    def send(self, http: httpx.Client, method: str, path: str, key: str = "", **how: Any) -> httpx.Response | None:
        """One call; none where the connection broke."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            reply = http.request(method, path, headers=headers, **how)
        except AWAY as error:
            self.statuses[type(error).__name__] += 1
            return None
        self.statuses[str(reply.status_code)] += 1
        if reply.status_code == 500:
            self.wrong.append(f"{method} {path}: {reply.text[:300]}")
        return reply

    def _waiting(self, http: httpx.Client) -> int:
        reply = self.send(http, "GET", "/v1/deletion-requests?unanswered=true&page_size=100")
        return len(reply.json()["items"]) if reply is not None and reply.status_code == 200 else 0

    def flood(self, rng: random.Random, calls: int = 60) -> int:
        """Many POSTs of one tenant at once, half of them under one key; how many were answered."""
        shop = rng.choice(self.shops)
        if len(shop.ids) < calls:
            return 0
        one = self.new(shop, rng)
        promises = [one] * (calls // 2) + [self.new(shop, rng) for _ in range(calls // 6)]
        with self._http(shop) as http, ThreadPoolExecutor(calls) as pool:
            list(pool.map(lambda promise: self.keep_asking(http, promise), promises))
        return len(promises)


def open_shop(url: str, token: str, samples: int, seed: int) -> Shop:
    """A dataset of pictures, taken in, and a model trained on it, by way of the API alone."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=300) as http:

        def call(method: str, path: str, **how: Any) -> Any:
            reply = http.request(method, path, **how)
            if reply.status_code >= 300:
                raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text}")
            return reply.json()

        def wait(what: str, path: str, member: str, wanted: object) -> None:
            end = time.monotonic() + SETTING_UP_SECONDS
            while call("GET", path)[member] != wanted:
                if time.monotonic() > end:
                    raise TimeoutError(f"waited {SETTING_UP_SECONDS:.0f} s for {what}")
                time.sleep(0.25)

        dataset = call("POST", "/v1/datasets", json={"name": "people", "source": {"name": "upload"}})["id"]
        where = f"/v1/datasets/{dataset}"
        data = pictures(samples, CLASSES * 12, seed)
        call("PUT", f"{where}/content", content=data, headers={"Content-Type": "application/zip"})
        wait("the pictures to be taken in", where, "state", "ready")
        body = {"name": "m", "dataset": dataset, **TINY, "recipe": RECIPE, "policy": POLICY}
        model = call("POST", "/v1/models", json=body)["id"]
        call("POST", f"/v1/models/{model}:train", json={"seed": seed})
        wait("the model to be trained", f"/v1/models/{model}", "current_version", 1)
        ids, page = [], f"{where}/samples?split=train&page_size=1000"
        ids = [item["id"] for item in call("GET", page)["items"]]
    return Shop(token, dataset, model, ids)
