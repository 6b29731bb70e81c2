"""API keys and webhooks of the caller's tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from lethe import types
from lethe.collection import Collection


class Keys(Collection[types.Key]):
    path = "/v1/api-keys"

    def create(self, name: str, scopes: Sequence[types.Scope], expires_in_days: int | None = None) -> types.KeyMade:
        """A key with these scopes; its `token` is in this reply and in no other."""
        made = self._create(name=name, scopes=list(scopes), expires_in_days=expires_in_days)
        return cast("types.KeyMade", made)

    def rotate(self, key: str, overlap_seconds: int = 0) -> types.KeyMade:
        """A new key like this one, which ends after the overlap."""
        return cast("types.KeyMade", self._verb(key, "rotate", overlap_seconds=overlap_seconds))

    def revoke(self, key: str, *, if_match: str | None = None) -> None:
        self._calls.delete(f"{self.path}/{key}", if_match=if_match)


class Webhooks(Collection[types.Webhook]):
    path = "/v1/webhooks"

    def create(self, url: str, events: Sequence[str] = ()) -> types.WebhookMade:
        """A receiver of these kinds of events, or of all; its signing `secret` is in this reply and in no other."""
        return cast("types.WebhookMade", self._create(url=url, events=list(events)))

    def disable(self, webhook: str, *, if_match: str | None = None) -> None:
        self._calls.delete(f"{self.path}/{webhook}", if_match=if_match)

    def rotate_secret(self, webhook: str) -> types.WebhookMade:
        """A new signing secret, which is in this reply and in no other."""
        return cast("types.WebhookMade", self._verb(webhook, "rotate-secret"))

    def deliveries(self, webhook: str, **filters: Any) -> Iterator[types.Delivery]:
        return cast("Iterator[types.Delivery]", self._calls.pages(f"{self.path}/{webhook}/deliveries", **filters))

    def replay(self, webhook: str, delivery: str) -> types.Delivery:
        """Send a delivery again, with the same message id."""
        return cast("types.Delivery", self._calls.post(f"{self.path}/{webhook}/deliveries/{delivery}:replay"))
