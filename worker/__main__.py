"""`python -m worker`: what `lethe worker` starts."""

from app import leash, logs
from app.config import get_settings
from worker import loop

if __name__ == "__main__":
    leash.hold()
    logs.configure()
    settings = get_settings()
    if settings.broker_url:
        loop.consume(settings)
    else:
        loop.watch(settings)
