"""`python -m worker`: what `lethe worker` starts for each device."""

import sys

from app.core import logs
from app.core.config import get_settings
from app.jobs import devices
from app.operations import parent_watch
from worker import loop

if __name__ == "__main__":
    parent_watch.watch()
    settings = get_settings()
    logs.configure("worker", settings.log_format)
    try:
        with devices.held(devices.own(settings)):
            if settings.broker_url:
                loop.consume(settings)
            else:
                loop.watch(settings)
    except devices.DeviceInUseError as error:
        sys.exit(f"lethe: {error}")
