"""Check that the server accepts the fleet's writes.

Reads prove nothing: a replica, a cluster, a full server and a user without rights answer them.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from skillfleet_cli.doctor import Finding, Level
from skillfleet_ledger import Ledger
from skillfleet_ledger.keys import random_uuid
from skillfleet_ledger.redis_client.connection import ReplyError

# An update (XX) of a missing key has no effect, but is refused like any other write.
_ENQUEUE = """
redis.call('ZADD', KEYS[1] .. 'run:' .. ARGV[1], 'XX', 0, ARGV[1])
if KEYS[2] then redis.call('ZADD', KEYS[2], 'XX', 0, ARGV[1]) end
"""
"""A producer's writes. KEYS: the shard's prefix, a list of the broker. ARGV: an id."""
_EXECUTE = """
local own, stream, result = KEYS[1] .. 'blob:' .. ARGV[1], KEYS[1] .. 'events:' .. ARGV[1], KEYS[2]
redis.call('PUBLISH', result, '{}')
redis.call('SET', result, '{}', 'EX', 60)
redis.call('HSET', own, '0', 'doctor')
redis.call('PEXPIRE', own, 60000)
redis.call('XADD', stream, '1-0', 'kind', 'doctor')
redis.call('PEXPIRE', stream, 60000)
redis.call('DEL', own, stream, result)
"""
"""A worker's further writes. KEYS: the shard's prefix, a result's key. ARGV: an id."""

_CLUSTER = "this is a Redis Cluster: the fleet needs a single primary, without cluster mode"
_ADVICE = {
    "READONLY": "this is a replica: set SKILLFLEET_REDIS_URL to the primary",
    "CROSSSLOT": _CLUSTER,
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "OOM": "it is full: raise maxmemory, or lower SKILLFLEET_RETENTION_SECONDS",
    "MISCONF": "it cannot write to its disk: see the server's log; is the disk full?",
    "NOREPLICAS": "it has too few replicas (min-replicas-to-write): check that they are running",
    "MASTERDOWN": "this is a replica that lost its primary: check that the primary is running",
    "LOADING": "it is loading its data from disk: try again in a moment",
    "BUSY": "a script does not end: SCRIPT KILL stops it",
    "NOAUTH": "set SKILLFLEET_REDIS_PASSWORD, or the password in SKILLFLEET_REDIS_URL",
    "WRONGPASS": "check user and password in SKILLFLEET_REDIS_URL",
    "NOPERM": "give this user the rights of deploy/redis/users.acl, or check as a worker's user",
}
_IN_SCRIPTS = {
    "ACL failure": "NOPERM",
    "The user executing the script": "NOPERM",
    "non local key": "CROSSSLOT",
}
"""Messages that servers write without a code when a script fails."""
_CODE = re.compile(rf"\b({'|'.join(_ADVICE)})\b")
_UNKNOWN = (
    "is it a Redis (or Valkey) server, not a Sentinel or proxy? The fleet needs the primary's"
    " own address"
)


@dataclass(frozen=True)
class _Probe:
    """A script that makes the fleet's writes."""

    script: str
    keys: tuple[str, ...]

    async def refusal(self, ledger: Ledger, name: str) -> ReplyError | None:
        """Return the server's refusal, or None."""
        return await _refusal(ledger, "EVAL", self.script, len(self.keys), *self.keys, name)


async def examine_writing(ledger: Ledger) -> Finding:
    """Return a finding about writes to keys that no part of the fleet reads."""
    settings, keys = ledger.settings, ledger.keys
    name = f"doctor-{random_uuid()}"
    prefix = keys.shard_prefix(0)
    lists = (f"{keys.broker_list(settings.default_queue, 0)}~~0",)
    enqueue = _Probe(_ENQUEUE, (prefix, *(lists if settings.broker_is_ledger else ())))
    execute = _Probe(_EXECUTE, (prefix, keys.result_key(name)))
    refused = await enqueue.refusal(ledger, name)
    if refused is not None:
        return await _refused(ledger, refused, name)
    refused = await execute.refusal(ledger, name)
    if refused is None:
        return Finding("writing", Level.OK, "allowed")
    if code_of(refused) == "NOPERM" and not await _may_write(ledger, f"{prefix}blob:{name}"):
        text = "this user may enqueue runs, not execute them"
        return Finding("writing", Level.WARNING, text, "right for a producer; workers need more")
    return _problem(refused)


async def _refused(ledger: Ledger, refused: ReplyError, name: str) -> Finding:
    run_key = f"{ledger.keys.shard_prefix(0)}run:{name}"
    if code_of(refused) == "NOPERM" and not await _may_write(ledger, run_key):
        text = "this user may only read: the check cannot know whether the fleet can write"
        return Finding(
            "writing", Level.WARNING, text, "check as a worker's user (docs/security.md)"
        )
    return _problem(refused)


async def _may_write(ledger: Ledger, key: str) -> bool:
    """Return whether the user may write this key; writes nothing."""
    refused = await _refusal(ledger, "ZADD", key, "XX", 0, "doctor")
    return refused is None or code_of(refused) != "NOPERM"


async def _refusal(ledger: Ledger, *command: Any) -> ReplyError | None:
    try:
        # Not retried: a temporary refusal is a finding, too.
        await asyncio.wait_for(
            ledger.connection.call(*command), ledger.settings.redis_timeout_seconds
        )
    except ReplyError as error:
        return error
    return None


def advice_on(refusal: Exception) -> str:
    """Return advice on a refusal of Redis, or on an error that quotes one."""
    return _ADVICE.get(code_of(refusal), _UNKNOWN)


def code_of(refusal: Exception) -> str:
    """Find the Redis error code in the message; '' without a known one."""
    text = str(refusal)
    found = (code for words, code in _IN_SCRIPTS.items() if words in text)
    return next(found, next(iter(_CODE.findall(text)), ""))


def _problem(refused: ReplyError) -> Finding:
    return Finding("writing", Level.PROBLEM, f"refused: {refused}", advice_on(refused))
