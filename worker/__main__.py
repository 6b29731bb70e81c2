"""`python -m worker`: what `lethe worker` starts for each device."""

import os
import sys

from app.core import logs
from app.core.config import StartError, get_settings
from app.jobs import devices
from app.operations import parent_watch
from worker import loop

if __name__ == "__main__":
    parent_watch.watch()
    try:
        settings = get_settings()
    except StartError as error:
        sys.exit(f"lethe: {error}")
    logs.configure("worker", settings.log_format)
    try:
        with devices.held(devices.own(settings)):
            again = loop.run(settings)
    except devices.DeviceInUseError as error:
        sys.exit(f"lethe: {error}")
    if again:  # a fresh program: what used the device in this process goes with it
        parent_watch.pass_on()
        os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606
