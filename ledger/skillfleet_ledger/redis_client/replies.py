"""Error replies of Redis: which are temporary, and which need an operator."""

import re
from typing import NamedTuple

from skillfleet.errors import FleetUnavailableError

__all__ = ["RefusedError", "ReplyError"]

_PASSING = {
    "OOM": "its memory is full",
    "MISCONF": "it cannot save its data",
    "NOREPLICAS": "too few of its replicas are connected",
    "READONLY": "it is a read-only replica",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that lost its primary",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster is moving keys",
    "BUSY": "it is busy running a script",
    "UNBLOCKED": "it ended a waiting command",
    "EXECABORT": "it aborted a transaction",
}
_NO_RIGHT = "this user lacks a right that the fleet needs"
_NO_CLUSTER = "it is a Redis Cluster: a fleet needs a server that holds all of its keys"
_NO_DATABASE = "there is no such database"
_REFUSING = {
    "WRONGPASS": "user or password is wrong",
    "NOAUTH": "it requires a password",
    "NOPERM": _NO_RIGHT,
    "DENIED": "it accepts no connections from other machines",
    "CROSSSLOT": _NO_CLUSTER,
    "MOVED": _NO_CLUSTER,
    "ASK": _NO_CLUSTER,
}
_PASSING_TEXTS = {
    "max number of clients": "it accepts no more clients",
    "Script killed by user": "an administrator stopped the script",
}
_REFUSING_TEXTS = {
    # The message for a right that a script lacks depends on the server's version.
    "ERR ACL failure in script": _NO_RIGHT,
    "The user executing the script can't": _NO_RIGHT,
    "DB index is out of range": _NO_DATABASE,
    "invalid DB index": _NO_DATABASE,
    "SELECT is not allowed": _NO_CLUSTER,
    "non local key in a cluster node": _NO_CLUSTER,
    "ERR AUTH <password> called": "its default user has no password",
    "ERR unknown command": "it lacks a command that the fleet needs; is it a Sentinel, or old?",
}
_FOR_ALL = {"OOM", "MISCONF"}
_STALE = {"READONLY", "MASTERDOWN", "UNBLOCKED"}
# Redis 6 wraps the error of a command in that of its script; a transaction names its first error.
_WRAPPED = re.compile(
    r"(ERR Error running script .*: -|EXECABORT Transaction discarded because of: )(?=[A-Z]+ )"
)


class _Judged(NamedTuple):
    words: str = ""
    passing: bool = False
    refusing: bool = False


class ReplyError(Exception):
    """Redis answered a command with an error; the message is Redis's own."""

    @property
    def code(self) -> str:
        """The first word of Redis's message, which names the kind of error."""
        return self._text().partition(" ")[0]

    @property
    def passing(self) -> bool:
        """True when the same command may succeed later: Redis is full, loading or failing over."""
        return self._judged().passing

    @property
    def refusing(self) -> bool:
        """True when it lasts until an operator changes user, password, database or server."""
        return self._judged().refusing

    @property
    def for_all(self) -> bool:
        """True if no client can write meanwhile, so that no worker can take over runs."""
        return self.code in _FOR_ALL

    @property
    def stale(self) -> bool:
        """True when another server may be the primary: only a new connection finds it."""
        return self.code in _STALE

    @property
    def reason(self) -> str:
        """The reason of the refusal: an explanation and Redis's own message."""
        text, words = str(self).partition(". ")[0], self._judged().words
        return f"{words} ({text})" if words else text

    def _text(self) -> str:
        return _WRAPPED.sub("", str(self), count=1)

    def _judged(self) -> _Judged:
        text, code = self._text(), self.code
        if words := _REFUSING.get(code) or _found(text, _REFUSING_TEXTS):
            return _Judged(words, refusing=True)
        if words := _PASSING.get(code) or _found(text, _PASSING_TEXTS):
            return _Judged(words, passing=True)
        return _Judged()


class RefusedError(FleetUnavailableError):
    """Redis refuses user, password, database or right; its reply is the cause.

    The refusal lasts until an operator corrects the cause.
    """

    retryable = False


def _found(text: str, known: dict[str, str]) -> str:
    return next((words for part, words in known.items() if part in text), "")
