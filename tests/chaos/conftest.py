"""The servers, workers and producers of one test, as the worker's tests have them."""

from tests.worker.conftest import own_fleet, start_worker

__all__ = ["own_fleet", "start_worker"]
