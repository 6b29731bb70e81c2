"""`python -m worker`: what `lethe worker` starts for each device."""

import sys

from app import devices, leash, logs
from app.config import get_settings
from worker import loop

if __name__ == "__main__":
    leash.hold()
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
