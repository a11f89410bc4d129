"""The runtime: Celery workers that run each skill in a RunContext backed by the ledger."""

from skillfleet_worker.app import create_app
from skillfleet_worker.settings import WorkerSettings

__all__ = ["WorkerSettings", "create_app"]
