"""The Celery app of a test's worker; fleet.py starts Celery on it."""

import os
from typing import Any

from skillfleet_worker import create_app

MODULES = "FLEET_TEST_MODULES"
POOL = "FLEET_TEST_POOL"
CONCURRENCY = "FLEET_TEST_CONCURRENCY"


def __getattr__(name: str) -> Any:
    """`app`, built at its first use: tests import this module, too."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = create_app(
        *os.environ[MODULES].split(","),
        pool=os.environ[POOL],
        concurrency=int(os.environ[CONCURRENCY]),
    )
    return globals()["app"]
