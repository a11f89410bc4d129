"""A producer without skillfleet: Celery alone, which sends until the broker has accepted."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

_REDIS = {"socket_timeout": 2, "socket_connect_timeout": 2}
_RABBIT = {"confirm_publish": True}


@dataclass(frozen=True)
class Plain:
    """The options of a Celery message: the calls after it, their kind, and time limits."""

    then: str | None = None
    """`link` or `chain`: a run of chaos.linked follows if this one succeeds."""
    limits: Mapping[str, float] = field(default_factory=dict)


class PlainClient:
    """One Celery app; `broker_url` is the ledger's Redis where none is given."""

    def __init__(self, url: str, broker_url: str | None = None) -> None:
        # Without a backend: one that cannot wait for results any more can send nothing either.
        self._app = Celery(broker=broker_url or url, set_as_current=False)
        self._app.conf.broker_transport_options = _RABBIT if broker_url else _REDIS

    async def send(self, task_id: str, skill: str, args: Mapping[str, Any], plain: Plain) -> None:
        """Send one task; again and again, under the same id, until the broker took it."""
        options: dict[str, Any] = dict(plain.limits)
        if plain.then is not None:
            given = {"journal": args["journal"], "order": task_id}
            options[plain.then] = [self._app.signature("chaos.linked", kwargs=given)]
        send = partial(self._app.send_task, skill, kwargs=dict(args), task_id=task_id, **options)
        while True:
            try:
                await asyncio.to_thread(send, retry=False)
            except (OperationalError, RedisError, OSError):
                await asyncio.sleep(0.1)
            else:
                return

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._app.close)
