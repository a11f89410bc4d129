"""The runtime: Celery workers that run each skill in a RunContext backed by the ledger."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillfleet_worker.app import create_app
    from skillfleet_worker.settings import WorkerSettings

__all__ = ["WorkerSettings", "create_app"]

_HOMES = {"create_app": "app", "WorkerSettings": "settings"}


def __getattr__(name: str) -> Any:
    """A public name, from its module: what only needs a part, as the exporter, loads no Celery."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
