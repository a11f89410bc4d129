"""Checks of the server that holds the ledger, and of a separate broker."""

import asyncio
import time
from typing import Any

from skillfleet_cli.doctor import Finding, Level
from skillfleet_cli.doctor.writing import examine_writing
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.redis_client.connection import RefusedError, ReplyError

_LEAST_VERSION = (6, 2)
_MOST_SKEW_SECONDS = 1.0
_FULL = 0.85


async def examine_server(ledger: Ledger) -> list[Finding]:
    """Return findings about a Redis that answers; raises FleetUnavailableError if it does not."""
    before = time.monotonic()
    await ledger.directory.now_ms()
    latency = time.monotonic() - before
    clock = _clock(await _skew_seconds(ledger))
    try:
        info = await _info(ledger)
    except RefusedError as error:
        advice = "allow INFO for this user, or check version, eviction and persistence by hand"
        refused = Finding("redis", Level.WARNING, f"INFO was refused: {error}", advice)
        return [refused, await examine_writing(ledger), clock]
    return [
        _version(info, ledger.connection.address, latency),
        _eviction(info),
        _memory(info),
        await _persistence(ledger, info),
        await examine_writing(ledger),
        clock,
    ]


async def examine_broker(settings: Settings) -> list[Finding]:
    """Return a finding about a broker that is not the ledger's Redis."""
    if settings.broker_is_ledger:
        return []
    timeout = settings.redis_timeout_seconds
    try:
        await asyncio.to_thread(_connect_broker, settings.celery_broker_url, timeout)
    except Exception as error:  # noqa: BLE001 - each transport has errors of its own
        advice = "is it running, and is SKILLFLEET_BROKER_URL right?"
        return [Finding("broker", Level.PROBLEM, f"cannot be reached: {error}", advice)]
    return [Finding("broker", Level.OK, "reachable")]


def _connect_broker(url: str, timeout: float) -> None:
    # Takes a third of a second, which only fleets with a separate broker pay.
    from kombu import Connection  # noqa: PLC0415

    with Connection(url, connect_timeout=timeout) as connection:
        connection.ensure_connection(max_retries=1, timeout=max(1, int(timeout)))


def _version(info: dict[str, str], address: str, latency: float) -> Finding:
    product = "Valkey" if "valkey_version" in info else "Redis"
    shown = info.get("valkey_version") or info.get("redis_version", "?")
    text = f"{product} {shown} at {address}, answers within {latency * 1000:.1f} ms"
    numbers = info.get("redis_version", "0").split(".")[:2]
    if tuple(int(number) for number in numbers if number.isdigit()) < _LEAST_VERSION:
        return Finding("redis", Level.PROBLEM, text, "upgrade it to 6.2 or newer, or to Valkey")
    return Finding("redis", Level.OK, text)


def _eviction(info: dict[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction", Level.OK, policy)
    advice = "a full Redis would delete runs: set maxmemory-policy to noeviction"
    return Finding("eviction", Level.PROBLEM, policy, advice)


def _memory(info: dict[str, str]) -> Finding:
    used, most = _whole(info.get("used_memory")), _whole(info.get("maxmemory"))
    text = info.get("used_memory_human", "?")
    if not most:
        return Finding("memory", Level.OK, f"{text} used, no limit set")
    text += f" of {info.get('maxmemory_human', '?')} used"
    if used < _FULL * most:
        return Finding("memory", Level.OK, text)
    advice = "raise maxmemory, or lower SKILLFLEET_RETENTION_SECONDS: a full Redis accepts no runs"
    return Finding("memory", Level.WARNING, text, advice)


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


async def _persistence(ledger: Ledger, info: dict[str, str]) -> Finding:
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            advice = "see the server's log; is its disk full? It may refuse writes"
            return Finding("persistence", Level.PROBLEM, f"{name} is {info[name]}", advice)
    if info.get("aof_enabled") == "1":
        return Finding("persistence", Level.OK, "append-only file")
    try:
        saves = (await ledger.connection.execute("CONFIG", "GET", "save"))[1].decode()
    except (RefusedError, ReplyError, IndexError):
        return Finding(
            "persistence", Level.WARNING, "no append-only file", "enable it: appendonly yes"
        )
    if saves:
        advice = "a crash of Redis loses the runs since the last snapshot: set appendonly yes"
        return Finding("persistence", Level.WARNING, "snapshots only", advice)
    advice = "a restart of Redis loses all runs: set appendonly yes"
    return Finding("persistence", Level.WARNING, "none", advice)


async def _skew_seconds(ledger: Ledger) -> float:
    before = time.time()
    redis_ms = await ledger.directory.now_ms()
    return redis_ms / 1000 - (before + time.time()) / 2


def _clock(skew: float) -> Finding:
    text = f"Redis and this machine differ by {abs(skew) * 1000:.0f} ms"
    if abs(skew) <= _MOST_SKEW_SECONDS:
        return Finding("clock", Level.OK, text)
    advice = "runs follow the clock of Redis; synchronise both (NTP), or times in logs mislead"
    return Finding("clock", Level.WARNING, text, advice)


async def _info(ledger: Ledger) -> dict[str, str]:
    sections = ("server", "memory", "persistence")
    replies: list[Any] = [await ledger.connection.execute("INFO", section) for section in sections]
    lines = b"\n".join(replies).decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs if name}
