"""The identity of a journal's entries: the same in every attempt of a run, unique in it."""

import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import orjson
from pydantic_core import to_jsonable_python

from skillfleet.contracts import EntryKind
from skillfleet.errors import InvalidArgumentsError, StepKeyRequired
from skillfleet.failures import error_text

_MOST_CHARS: Final = 200
_DIGEST_CHARS: Final = 16
_RETRY: Final = "retry/"
_KEYED: Final = re.compile("[a-z]+=")


def keyed(kind: EntryKind, key: str, digest: str = "") -> str:
    """Return the identity of an entry with a key; `digest` is what must agree besides."""
    return f"{kind}={key}#{digest}" if digest else f"{kind}={key}"


def counted(kind: EntryKind, name: str, digest: str, count: int) -> str:
    """Return the identity of an entry without a key: it is number `count` among equals."""
    return f"{kind}/{name}#{digest}#{count}"


def is_keyed(identity: str) -> bool:
    """Return whether an identity has a key: several tasks may ask for it."""
    return _KEYED.match(identity) is not None


def read_count(identity: str) -> int:
    """Return the count in an identity without a key."""
    return int(identity.rpartition("#")[2])


def counted_prefix(kind: EntryKind) -> str:
    """Return the beginning of all identities of a kind without a key."""
    return f"{kind}/"


def backoff_of(identity: str, tries: int) -> str:
    """Return the identity of the wait after so many failed tries of a step."""
    return f"{_RETRY}{tries}@{identity}"


def read_backoff(identity: str) -> tuple[str, int] | None:
    """Return the step and the tries of a wait between tries; None for other identities."""
    if not identity.startswith(_RETRY):
        return None
    tries, _, step = identity.removeprefix(_RETRY).partition("@")
    return step, int(tries)


def step_key(run_id: str, identity: str) -> str:
    """Return the idempotency key of a step: 64 hexadecimal digits."""
    return hashlib.sha256(f"{run_id}\0{identity}".encode()).hexdigest()


def digest_of(value: Any) -> str:
    """Return a digest of a JSON value."""
    encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(encoded).hexdigest()[:_DIGEST_CHARS]


def arguments_digest(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a digest of a step's arguments; raises `StepKeyRequired` for what is not JSON."""
    try:
        encoded = _canonical([args, kwargs])
    except Exception as error:
        reason = error_text(error.__cause__ or error)
        raise StepKeyRequired(
            f"step {name!r} cannot be recognised by its arguments, which cannot be written as"
            f" JSON ({reason}): pass key="
        ) from error
    return hashlib.sha256(encoded).hexdigest()[:_DIGEST_CHARS]


def check_name(what: str, value: Any) -> None:
    """Raise `InvalidArgumentsError` unless `value` can name an entry; `what` is for the message."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MOST_CHARS:
        raise InvalidArgumentsError(
            f"{what} must be a string of 1 to {_MOST_CHARS} characters, got {value!r}"
        )
    if not value.isprintable():
        raise InvalidArgumentsError(f"{what} {value!r} must hold printable characters only")


def _canonical(value: Any) -> bytes:
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=options)


def _plain(value: Any) -> Any:
    """Return a form of `value` that orjson can write, the same in every process."""
    if isinstance(value, AbstractSet):
        return sorted(_canonical(item).decode() for item in value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return dict(value)
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    # In Python's types: sets inside of a model are sorted here, too.
    plain = value if serializer is None else serializer.to_python(value)
    return to_jsonable_python(value) if plain is value else plain
