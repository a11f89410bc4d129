"""The message of a run, as Celery's own client would build it (message protocol 2).

The shape is that of `celery.app.amqp.AMQP.as_task_v2` in kombu's Redis envelope; a test
compares both field by field on the installed Celery.
"""

import base64
import json
import os
import socket
from functools import cache
from typing import Any, Final, NamedTuple

import orjson

from skillfleet_ledger.keys import random_uuid
from skillfleet_ledger.runs.records import Invocation

_REPR_CHARS = 1024
_SHORT_BYTES = 512


class PlainPart(NamedTuple):
    """The parts of a plain Celery client's message that a record has no fields for."""

    headers: dict[str, Any]
    """Headers that differ from those of a fleet's own message, with stamps and custom ones."""
    embed: dict[str, Any]
    """The canvas: those of `callbacks`, `errbacks`, `chain` and `chord` that are set."""
    properties: dict[str, Any]
    """The message's own properties: `reply_to`."""
    args: tuple[Any, ...] = ()
    """The positional arguments of a run that was held before a worker knew their names."""


NOTHING_PLAIN = PlainPart({}, {}, {})


def plain_part(invocation: Invocation) -> PlainPart:
    """Return these parts of a plain client's message; empty for a run that a fleet enqueued."""
    if invocation.celery is None:
        return NOTHING_PLAIN
    # Not orjson, which changes whole numbers beyond 64 bits.
    return PlainPart(**json.loads(invocation.celery))


def envelope(invocation: Invocation) -> bytes:
    """Return the JSON for the broker's list on Redis."""
    plain = plain_part(invocation)
    message = {
        "body": base64.b64encode(_body(invocation.args, plain)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers(invocation),
        "properties": {
            "correlation_id": invocation.id,
            "reply_to": plain.properties.get("reply_to", ""),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": invocation.queue},
            "priority": invocation.priority,
            "body_encoding": "base64",
            "delivery_tag": random_uuid(),
        },
    }
    return orjson.dumps(message) if invocation.celery is None else _plain_json(message)


def headers(invocation: Invocation) -> dict[str, Any]:
    """Return the message headers: Celery's, and on the same level those of the invocation."""
    return {
        "lang": "py",
        "task": invocation.task,
        "id": invocation.id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": invocation.root_id,
        "parent_id": invocation.parent_id,
        "argsrepr": "()",
        "kwargsrepr": _representation(invocation.args),
        "origin": origin(),
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **_plain_headers(invocation),
        **orjson.loads(invocation.headers),
    }


def _plain_headers(invocation: Invocation) -> dict[str, Any]:
    kept = plain_part(invocation).headers
    # `expires` bounds the start of a run; the canvas of one that has ended may still continue.
    return kept | {"expires": None} if invocation.has_ended else kept


def body(invocation: Invocation) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return the message's body for a client that serialises it."""
    plain = plain_part(invocation)
    return list(plain.args), orjson.loads(invocation.args), EMPTY_EMBED | plain.embed


@cache
def origin() -> str:
    """Return the sender's name in Celery's form for clients: `gen<pid>@<host>`."""
    return f"gen{os.getpid()}@{socket.gethostname()}"


os.register_at_fork(after_in_child=origin.cache_clear)


def _representation(args: bytes) -> str:
    """Return the arguments in readable form, as Celery writes them (celery.utils.saferepr)."""
    arguments = orjson.loads(args)
    if len(args) <= _SHORT_BYTES and _is_plain(args):
        # The same as Celery's, at a thirtieth of the cost.
        return repr(arguments)
    from celery.utils.saferepr import saferepr  # noqa: PLC0415 - it imports all of kombu

    return str(saferepr(arguments, _REPR_CHARS))


def _is_plain(args: bytes) -> bool:
    """Return whether a JSON object is flat and Python's repr writes its strings unchanged."""
    return (
        args.isascii()
        and args.count(b"{") == 1
        and not any(unusual in args for unusual in (b"[", b"'", b"\\", b"\x7f"))
    )


def _body(args: bytes, plain: PlainPart) -> bytes:
    embedded = _plain_json(EMPTY_EMBED | plain.embed) if plain.embed else _EMBED
    positional = _plain_json(plain.args) if plain.args else b"[]"
    return b"[" + positional + b", " + args + b", " + embedded + b"]"


def _plain_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


EMPTY_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_EMBED = orjson.dumps(EMPTY_EMBED)
