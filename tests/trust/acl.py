"""A server with the two users of deploy/redis, as an operator sets them up."""

from collections.abc import Mapping

import redis

from tests.support.fleet import ROOT
from tests.support.valkey import ValkeyServer

USERS = ROOT / "deploy" / "redis" / "users.acl"
PASSWORDS = {"skillfleet-producer": "producer-pw", "skillfleet-worker": "worker-pw"}


def set_users(server: ValkeyServer, replaced: Mapping[str, str] | None = None) -> None:
    """Give the server the users of the file, with passwords; `replaced` edits their rules."""
    text = USERS.read_text()
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    with server.client() as client:
        for line in text.splitlines():
            _, name, *rules = line.split(" ")
            client.execute_command("ACL", "SETUSER", name, *rules, f">{PASSWORDS[name]}")


def url(server: ValkeyServer, user: str) -> str:
    """The server's URL for a user."""
    return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/0"


def client(server: ValkeyServer, user: str) -> redis.Redis:
    """A connection as that user."""
    return redis.Redis(port=server.port, username=user, password=PASSWORDS[user])


def denied(server: ValkeyServer) -> list[str]:
    """What the server refused so far: user, reason and what it was about."""
    with server.client() as connection:
        entries = connection.execute_command("ACL", "LOG", 100)
    rows = [{_text(key): _text(value) for key, value in entry.items()} for entry in entries]
    return [f"{row['username']}: {row['reason']} {row['object']}" for row in rows]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
