"""The runtime: Celery workers that run each skill in a RunContext backed by the ledger."""

from typing import TYPE_CHECKING

from skillfleet._lazy import exported

if TYPE_CHECKING:
    from skillfleet_worker.app import create_app
    from skillfleet_worker.settings import WorkerSettings
else:
    __getattr__ = exported(
        __name__,
        {
            "WorkerSettings": "skillfleet_worker.settings",
            "create_app": "skillfleet_worker.app",
        },
    )

__all__ = ["WorkerSettings", "create_app"]
