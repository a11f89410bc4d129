"""An independent auditor: reads every key of a ledger's shards and reports what is inconsistent.

It knows keys.py's table and nothing of the scripts.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson

from skillfleet.contracts import RunState
from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.streams import kept_events

_UNFINISHED = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)
_INDEXES = ("index", "ready", "delayed", "deadlines", "leases", "parked", "parking", "held")
_OF_JOURNALS = ("journal", "values", "emitted", "unfinished", "decisions", "inbox", "texts")


@dataclass
class _Shard:
    """The keys under one shard's prefix."""

    prefix: str
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    indexes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def audit(client: Any, keys: Keyspace) -> list[str]:
    """Return the contradictions between records, indexes, streams and results."""
    problems: list[str] = []
    for prefix in keys.prefixes():
        shard = _load(client, prefix)
        for run_id, record in shard.records.items():
            problems += [f"{run_id}: {what}" for what in _indexed(shard, run_id, record)]
            problems += [f"{run_id}: {what}" for what in _streamed(client, shard, run_id, record)]
            problems += [f"{run_id}: {what}" for what in _kept(client, keys, shard, run_id, record)]
            problems += [f"{run_id}: {what}" for what in _waits(client, shard, run_id, record)]
        for index, members in shard.indexes.items():
            lost = members - set(shard.records)
            problems += [f"{index} names {run_id}, which has no record" for run_id in lost]
        problems += _counted(client, shard)
        problems += _sessions(client, shard)
        problems += _timed(client, shard)
        problems += _owed(client, shard)
        problems += _uploaded(client, shard)
    return problems


def _uploaded(client: Any, shard: _Shard) -> list[str]:
    """Check that each object in the object store is noted, and the key of the notes is kept."""
    key = f"{shard.prefix}uploads"
    problems = [] if client.ttl(key) < 0 else ["the notes of uploads expire"]
    noted = set()
    for member in client.zrange(key, 0, -1):
        run_id, token, object_id, name = member.decode().split(":", 3)
        noted.add((run_id, object_id, name))
        if not token.isdigit() or not run_id or not object_id:
            problems.append(f"{member!r} is no upload")
    for run_id, record in shard.records.items():
        key = f"{shard.prefix}artifacts:{run_id}"
        for name, stored in (client.hgetall(key) if "artifacts" in record else {}).items():
            described = orjson.loads(stored)
            upload = (run_id, described["blob"], name.decode())
            if described.get("object") and upload not in noted:
                problems.append(f"{run_id}: the object of {name!r} is not noted")
        key = f"{shard.prefix}values:{run_id}"
        for digest in client.smembers(key) if "journal" in record else ():
            chunks = client.exists(f"{shard.prefix}blob:{run_id}:{digest.decode()}")
            if not chunks and (run_id, digest.decode(), "") not in noted:
                problems.append(f"{run_id}: the object of value {digest!r} is not noted")
    return problems


def _waits(client: Any, shard: _Shard, run_id: str, record: dict[str, str]) -> list[str]:
    """Check waits against the record: their kinds, a way to go on, what was announced."""
    state = RunState(record["state"])
    waits = client.hgetall(f"{shard.prefix}waits:{run_id}")
    decisions = client.hgetall(f"{shard.prefix}decisions:{run_id}")
    inbox = client.lrange(f"{shard.prefix}inbox:{run_id}", 0, -1)
    problems = []
    if state.terminal:
        return [f"{state}, but has waits {sorted(waits)}"] if waits else []
    if unknown := {wait for wait, how in decisions.items() if b"\n" in how} - set(waits):
        problems.append(f"decisions {sorted(unknown)} of no wait")
    kinds = {wait: stored.split(b" ")[0].decode() for wait, stored in waits.items()}
    undecided = sorted(kind for wait, kind in kinds.items() if wait not in decisions)
    noted = sorted(filter(None, record.get("waiting", "").split(",")))
    if noted != undecided:
        problems.append(f"waits for {undecided}, its record says {noted}")
    if int(record.get("inbox_bytes", 0)) != sum(map(len, inbox)):
        problems.append(f"{record.get('inbox_bytes')} bytes counted in its inbox")
    if (waits or inbox or decisions) and "journal" not in record:
        problems.append("its journal is not noted")
    if state is RunState.WAITING and not undecided and "woken" not in record:
        problems.append("parked, but waits for nothing")
    if "woken" in record and "parking" not in record:
        problems.append("it was woken and does not continue")
    if state is RunState.RUNNING and noted and not record.get("announced"):
        problems.append("its waits are not announced")
    return problems


def _timed(client: Any, shard: _Shard) -> list[str]:
    """Check that what expires is timed."""
    found = client.zrange(f"{shard.prefix}timers", 0, -1, withscores=True)
    timers = {timer.decode(): at for timer, at in found}
    problems = []
    for run_id in shard.records:
        waits = client.hgetall(f"{shard.prefix}waits:{run_id}")
        decisions = client.hkeys(f"{shard.prefix}decisions:{run_id}")
        for wait, stored in waits.items():
            expires, timer = stored.split(b" ")[1].decode(), f"{run_id}:{wait.decode()}"
            timed = timers.pop(timer, None)
            if wait not in decisions and timed != (None if expires == "-" else int(expires)):
                problems.append(f"{timer} expires at {expires}, its timer at {timed}")
    for alarm in client.zrange(f"{shard.prefix}alarms", 0, -1):
        queue, _, run_id = alarm.decode().partition("|")
        record = shard.records.get(run_id, {})
        waits = record.get("state") == RunState.WAITING or run_id in shard.indexes["delayed"]
        if not run_id.startswith("schedule:") and (not waits or record.get("queue") != queue):
            problems.append(f"alarm {alarm!r} of no parked or delayed run")
    return [*problems, *(f"timer {timer} of no wait" for timer in timers)]


def _counted(client: Any, shard: _Shard) -> list[str]:
    """Check that delays are counted by queue, and unserved runs by skill and queue."""
    counted = {
        queue.decode(): int(count)
        for queue, count in client.hgetall(f"{shard.prefix}delays").items()
    }
    delayed = shard.indexes.get("delayed", set()) & set(shard.records)
    expected = Counter(shard.records[run_id]["queue"] for run_id in delayed)
    problems = [] if counted == expected else [f"delays counted: {counted}, not {expected}"]
    unserved = {
        name.decode(): int(count)
        for name, count in client.hgetall(f"{shard.prefix}unserved").items()
    }
    held = (shard.records[run_id] for run_id in shard.indexes.get("held", set()))
    expected = Counter(
        f"{record['held'].partition(':')[2]}|{record['queue']}"
        for record in held
        if record["held"].startswith("unserved:")
    )
    if unserved != expected:
        problems.append(f"unserved runs counted: {unserved}, not {expected}")
    return problems


def _sessions(client: Any, shard: _Shard) -> list[str]:
    """Check that one run of a session may execute at a time, and the others are held in order."""
    problems = []
    by_session: dict[str, list[tuple[int, str]]] = defaultdict(list)
    numbered = {}
    for raw in client.scan_iter(match=f"{shard.prefix}session_runs:*", count=1000):
        session = raw.decode().removeprefix(f"{shard.prefix}session_runs:")
        pairs = client.zrange(raw, 0, -1, withscores=True)
        numbered[session] = {run_id.decode(): int(number) for run_id, number in pairs}
    for run_id, record in shard.records.items():
        if "session" in record and not RunState(record["state"]).terminal:
            number = numbered[record["session"]][run_id]
            by_session[record["session"]].append((number, run_id))
    for session, live in by_session.items():
        current = (client.hget(f"{shard.prefix}session:{session}", "current") or b"").decode()
        free = [
            run_id
            for _, run_id in sorted(live)
            if not shard.records[run_id].get("held", "").startswith("session:")
        ]
        if free != [current] or min(live)[1] != current:
            problems.append(f"session {session}: {free} are not held, its current run is {current}")
    return problems


def _owed(client: Any, shard: _Shard) -> list[str]:
    """Check that pending cleanups are noted, and open calls counted."""
    owed = {run_id.decode() for run_id in client.zrange(f"{shard.prefix}cleanups", 0, -1)}
    problems = []
    for run_id, record in shard.records.items():
        called = {c.decode() for c in client.smembers(f"{shard.prefix}children:{run_id}")}
        still = {child for child in called & set(shard.records) if not _is_over(shard, child)}
        counted = int(record.get("open", 0))
        if counted != len(still):
            problems.append(f"{run_id}: {counted} open calls counted, there are {len(still)}")
        waits = record["state"] == RunState.QUEUED
        spent = waits and int(record.get("lost", 0)) >= int(record["max_deliveries"])
        owes = (_is_over(shard, run_id) and still) or (waits and "cancel" in record) or spent
        if owes and run_id not in owed:
            problems.append(f"{run_id}: {record['state']}, what it owes is not noted")
    return problems


def _is_over(shard: _Shard, run_id: str) -> bool:
    record = shard.records[run_id]
    return "cancel" in record or RunState(record["state"]).terminal


def _load(client: Any, prefix: str) -> _Shard:
    shard = _Shard(prefix)
    for raw in client.scan_iter(match=f"{prefix}*", count=1000):
        key: str = raw.decode()
        name = key.removeprefix(prefix)
        kind = name.partition(":")[0]
        if kind == "run":
            values: dict[bytes, bytes] = client.hgetall(key)
            shard.records[name.partition(":")[2]] = {
                k.decode(): v.decode(errors="replace") for k, v in values.items()
            }
        elif kind in _INDEXES:
            shard.indexes[name] = {member.decode() for member in client.zrange(key, 0, -1)}
        elif kind == "running":
            shard.indexes[name] = {member.decode() for member in client.smembers(key)}
        elif kind == "expiring":
            entries = client.zrange(key, 0, -1)
            shard.indexes[name] = {_expiring_id(entry.decode()) for entry in entries}
    return shard


def _expiring_id(entry: str) -> str:
    _, _, length, _, rest = entry.split("|", 4)
    return rest[: int(length)]


def _expected(record: dict[str, str]) -> set[str]:
    """Return the indexes a run must be in besides `ready` or `delayed`."""
    state = RunState(record["state"])
    names = {"all", f"agent:{record['agent']}"}
    names |= {f"tag:{line}" for line in record.get("tags", "").split("\n") if line}
    names |= {f"session:{record['session']}"} if "session" in record else set()
    expected = {f"index:{name}" for name in names}
    if state in _UNFINISHED and "deadline" in record:
        expected.add("deadlines")
    if state is RunState.RUNNING:
        expected |= {"leases", f"running:{record['queue']}"}
    if state is RunState.WAITING:
        expected |= {"parked", "parking"} if "parking" in record else {"parked"}
    if state.terminal:
        expected.add("expiring")
        if state is not RunState.SUCCEEDED:
            expected |= {f"index:state:{state}:{name}" for name in names}
    return expected


def _indexed(shard: _Shard, run_id: str, record: dict[str, str]) -> list[str]:
    ready = f"ready:{record['queue']}:{record['priority']}"
    found = {index for index, members in shard.indexes.items() if run_id in members}
    waiting = found & {ready, "delayed", "held"}
    problems = []
    others = {index for index in found - waiting if not index.startswith("held:")}
    if others != _expected(record):
        problems.append(f"{record['state']}, indexed in {sorted(found)}")
    if len(waiting) != (1 if record["state"] == RunState.QUEUED else 0):
        problems.append(f"{record['state']}, waits in {sorted(waiting)}")
    held = {index for index in found if index.partition(":")[0] == "held"}
    reason = {"held", f"held:{record['held']}"} if "held" in record else set()
    if held != reason:
        problems.append(f"held for {record.get('held')}, indexed in {sorted(held)}")
    return problems


def _streamed(client: Any, shard: _Shard, run_id: str, record: dict[str, str]) -> list[str]:
    entries: list[Any] = client.xrange(f"{shard.prefix}events:{run_id}")
    kept = [
        (entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry_id, fields in kept_events(record.get("kept", "").encode())
    ]
    if kept and entries:
        return [f"{len(kept)} events are kept in the record of a run with a stream"]
    entries = entries or kept
    numbers = [int(entry_id.split(b"-")[0]) for entry_id, _ in entries]
    last = int(record["seq"])
    problems = []
    if numbers != list(range(last - len(numbers) + 1, last + 1)):
        problems.append(f"events {numbers} do not end densely at {last}")
    final = [
        number
        for number, (_, fields) in zip(numbers, entries, strict=True)
        if fields[b"k"] == b"state" and RunState(orjson.loads(fields[b"p"])["state"]).terminal
    ]
    if final != ([last] if RunState(record["state"]).terminal else []):
        problems.append(f"{record['state']}, final events {final} of {last}")
    return problems


def _kept(
    client: Any, keys: Keyspace, shard: _Shard, run_id: str, record: dict[str, str]
) -> list[str]:
    ended = RunState(record["state"]).terminal
    problems = []
    for kind in ("run", "events", "attempts", "children", "artifacts", *_OF_JOURNALS):
        left: int = client.pttl(f"{shard.prefix}{kind}:{run_id}")
        if left != -2 and (left > 0) != ended:
            problems.append(f"{record['state']}, but {kind} lives for {left} ms")
    result: int = client.pttl(keys.result_key(run_id))
    if (result > 0) != ended:
        problems.append(f"{record['state']}, but its result lives for {result} ms")
    return problems
