"""The users of the chart, as an operator sets them up: every test server has them.

For the default namespace and queue they are those of deploy/redis/users.acl. The server's default
user stays an administrator, for the test's own look at things.
"""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

from deploy.redis_users import users
from skillfleet_ledger.keys import DEFAULT_NAMESPACE

PRODUCER, WORKER = "skillfleet-producer", "skillfleet-worker"
EXPORTER, FLOWER = "skillfleet-exporter", "skillfleet-flower"
QUEUES = (
    *("celery", "annex-queue", "editors", "lonely", "unconsumed", "unserved"),
    *("unread", "parked", "remote", "research", "there", "waiting"),
)
"""The queues that tests use, Celery's own first."""


@cache
def rules(namespace: str = DEFAULT_NAMESPACE) -> list[list[str]]:
    """Name and rules of each user, password last."""
    lines = [line.split() for line in users(namespace, list(QUEUES)).splitlines()]
    return [
        [user_of(name, namespace), *parts, f">{password_of(name)}"]
        for _, name, *parts in (line for line in lines if line)
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
    """Return the server's refusals so far: user, reason, and command or key."""
    entries = client.execute_command("ACL", "LOG", 100)
    rows = [{_text(key): _text(value) for key, value in entry.items()} for entry in entries]
    return [f"{row['username']}: {row['reason']} {row['object']}" for row in rows]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
