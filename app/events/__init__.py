"""Events: recorded in the transaction of the change that they tell of, and delivered to webhooks."""

from app.events.recording import Told, record, record_many

__all__ = ["Told", "record", "record_many"]
