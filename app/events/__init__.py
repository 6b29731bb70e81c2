"""Events: recorded in the transaction of the change that they describe, and delivered to webhooks."""

from app.events.recording import NewEvent, record, record_about, record_decision, record_many

__all__ = ["NewEvent", "record", "record_about", "record_decision", "record_many"]
