"""The users of deploy/redis/users.acl, as an operator sets them up: every test server has them.

The server's default user stays an administrator, for the test's own look at things.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from skillfleet_ledger.keys import DEFAULT_NAMESPACE

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
PRODUCER, WORKER = "skillfleet-producer", "skillfleet-worker"
EXPORTER, FLOWER = "skillfleet-exporter", "skillfleet-flower"
QUEUES = (
    *("annex-queue", "editors", "elsewhere", "lonely", "nobody-consumes", "nobody-listens"),
    *("parked", "research", "there", "waiting"),
)
"""The queues that tests use beside Celery's own."""
_LISTS = ("~celery", "~celery??[0-9]", "~celery*rung")
_CELERYS_KEYS = (
    *("celery", "unacked", "undecodable", "_kombu", "celeryev"),
    *("*.celery.pidbox", "*.reply.celery.pidbox"),
)
_CELERYS_CHANNELS = ("celery-", "/0.")


def rules(namespace: str = DEFAULT_NAMESPACE, queues: Iterable[str] = QUEUES) -> list[list[str]]:
    """Name and rules of each user, password last, as docs/security.md says to adapt them."""
    lines = [line.split() for line in USERS.read_text().splitlines() if line.startswith("user ")]
    return [
        [
            user_of(name, namespace),
            *(_in_namespace(part, namespace) for part in parts),
            *(
                _in_namespace(part.replace("~celery", f"~{queue}"), namespace)
                for queue in queues
                for part in parts
                if part in _LISTS
            ),
            f">{password_of(name)}",
        ]
        for _, name, *parts in lines
    ]


def acl_file() -> str:
    """The users of the default namespace in the form of Redis's `aclfile`."""
    return "".join(f"user {' '.join(line)}\n" for line in rules())


def user_of(user: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """The name of that user's like for a namespace."""
    return user if namespace == DEFAULT_NAMESPACE else f"{user}-{namespace}"


def password_of(user: str) -> str:
    """The password of a user, in every namespace."""
    return f"{user}-pw"


def as_user(url: str, user: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """A server's URL with the user's name and password in it."""
    parts = urlsplit(url)
    return parts._replace(
        netloc=f"{user_of(user, namespace)}:{password_of(user)}@{parts.netloc}"
    ).geturl()


def add_namespace(client: Any, namespace: str) -> None:
    """Give the server users for another namespace, too."""
    for line in rules(namespace):
        client.execute_command("ACL", "SETUSER", *line)
    client.execute_command("ACL", "SAVE")


def denied(client: Any) -> list[str]:
    """What the server refused so far: user, reason and what it was about."""
    entries = client.execute_command("ACL", "LOG", 100)
    rows = [{_text(key): _text(value) for key, value in entry.items()} for entry in entries]
    return [f"{row['username']}: {row['reason']} {row['object']}" for row in rows]


def _in_namespace(rule: str, namespace: str) -> str:
    if namespace == DEFAULT_NAMESPACE:
        return rule
    rule = rule.replace(f"{{{DEFAULT_NAMESPACE}:", f"{{{namespace}:")
    own = (*_CELERYS_KEYS, *QUEUES)
    kind, mark, name = rule.rpartition("~")
    if mark and name.startswith(own):
        return f"{kind}~{namespace}:{name}"
    if rule.startswith("&") and rule[1:].startswith(_CELERYS_CHANNELS):
        return f"&{namespace}:{rule[1:]}"
    return rule


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
