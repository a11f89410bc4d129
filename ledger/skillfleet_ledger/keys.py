"""The names of all keys, by shard and run. `P` is the shard's prefix `{<namespace>:<shard>}:`.

| key | type | what it holds | gone |
|---|---|---|---|
| P run:ID | hash | the record: state, invocation, lease's token, times, outcome | retention |
| P events:ID | stream | events that are not kept in the record; ids `<number>-0` | retention |
| P attempts:ID | list | attempts that did not end the run, the first and last 98 | retention |
| P children:ID | set | ids of the runs that this run called | retention; an hour for a cleanup |
| P artifacts:ID | hash | artifact name -> description (JSON) | retention |
| P blob:ID:UPLOAD | hash | chunk number -> bytes | retention; a day if never committed |
| P workspace:ID | hash | a workspace in the object store: its manifest, its writer | unneeded |
| P workspaces | zset | workspaces with objects, by when to look for unused ones (ms) | deleted |
| P uploads | zset | objects in the object store (below), by when to check them (ms) | deleted |
| P journal:ID | hash | identity of a step or wait -> what it led to (entries.py) | retention |
| P values:ID | set | digests of the journal's values that are kept apart, as uploads | retention |
| P emitted:ID | hash | address of events -> how many of them are in the stream | retention |
| P unfinished:ID | hash | identity of a step that is not recorded -> its first event | retention |
| P texts:ID | zset | texts of recorded steps whose events are trimmed, by last number | retention |
| P waits:ID | hash | number of a wait that is not closed -> the wait (waits.py) | at the end |
| P decisions:ID | hash | number of a wait -> how it ended (waits.py), or a digest | retention |
| P inbox:ID | list | unread messages (inbox.py) | retention |
| P index:all | zset | all runs by time of creation (ms) | pruned at expiry |
| P index:agent:AGENT | zset | runs of that agent by time of creation (ms) | pruned at expiry |
| P index:tag:KEY=VALUE | zset | runs with that tag by time of creation (ms) | pruned at expiry |
| P index:session:SESSION | zset | its runs by time of creation (ms) | pruned at expiry |
| P index:state:STATE:... | zset | those (all, agent:AGENT and so on) that ended so | pruned |
| P ready:QUEUE:PRIORITY | zset | queued runs by time of publication (ms) | when claimed |
| P queues | set | `QUEUE:PRIORITY` of all non-empty ready indexes | when empty |
| P running:QUEUE | set | running runs | when they end |
| P delayed | zset | queued runs that must wait, by the time they are due (ms) | when due |
| P delays | hash | queue -> how many of its runs are delayed | a field when none is |
| P schedule:NAME | hash | a schedule (schedules.py); the shard is that of its name | removed |
| P schedules | zset | schedules by when they are due next (ms), paused ones last | removed |
| P unpublished | zset | queued runs that the reaper is publishing, by the next try (ms) | seconds |
| P held | zset | held runs (below), by when the reaper looks at them (ms) | when freed |
| P held:REASON | zset | runs held for that reason, in the order of their release | when freed |
| P unserved | hash | `AGENT.SKILL|QUEUE` -> how many runs no live worker serves | when freed |
| P session:SESSION | hash | a session (below): its current run, the count of its runs | pruned |
| P session_runs:SESSION | zset | the last 10,000 runs of a session by number | with the session |
| P session_state:SESSION | string | what its runs have saved (JSON) | with the session |
| P grant:SCOPE:GRANT | string | the run that installed it (below), or `revoked` | with the grant |
| P grant_epoch:SCOPE | string | when all grants of SCOPE were last revoked (ms) | after a day |
| P sessions | zset | sessions by their last change (ms) | pruned when long unused |
| P deadlines | zset | unfinished runs with a deadline, by deadline (ms) | when they end |
| P parked | zset | parked runs by when they were parked (ms) | when they continue or end |
| P parking | zset | parked runs whose handler may still execute, by its lease (ms) | seconds |
| P alarms | zset | `QUEUE|WHAT` that will need a worker (below), by when (ms) | when it does |
| P timers | zset | `ID:WAIT` by when the wait expires (ms) | when it is closed |
| P leases | zset | running runs by the end of their lease (ms) | when they end |
| P cleanups | zset | runs that need a cleanup (below), by the next try (ms) | when done |
| P canvases | zset | ended runs whose links and chains did not go on, by the next try | soon |
| P watermark | hash | `QUEUE:PRIORITY` -> publication time of the last claim (ms) | when empty |
| P expiring | zset | ended runs and their indexes (common.lua) by expiry (ms) | at expiry |
| P workers | zset | live worker processes by the end of their heartbeat (ms) | pruned |
| P reaper | string | the worker that is reaper now | seconds |
| P reaped | string | when the reaper last worked (ms) | never; one key |
| P lease_grace | string | present while lapsed leases are left alone after an outage | 2 s |
| P cards | hash | `AGENT|VERSION` -> the agent's card (JSON); shard 0 only | unseen for a day |
| P serving | zset | `AGENT|VERSION|WORKER` by end of heartbeat (ms); shard 0 only | pruned |
| P dead_letters | stream | messages that became no run, the last 10,000; shard 0 only | never |

Indexes by state are of the states that runs end in, without `succeeded`, in which most do. Every
entry of an index is read with the run's record, which decides (search.lua).

A run that ended or was cancelled needs a cleanup while runs that it called have not been
cancelled; one that was cancelled in the queue, or released too often, until it has ended itself.
The script that causes the cleanup notes it; the reaper does it unless another process was faster.

A run is kept until its caller has ended, and for its retention after that, where the caller was
live and had a journal at the run's end.

A held run is queued, but not ready: it has no message. Its record names the reason: `unserved:` and
the skill that no live worker serves, or `session:` and the session whose current run has not ended.
What frees it publishes it. A session's name is `OWNER/ID`: a digest of the caller whom the id
belongs to, where the fleet requires authentication, and its id. All of it lies on the shard of that
name, and so do its runs.

An object in the object store is listed as `ID:TOKEN:OBJECT:ARTIFACT` before it is written, and
until it is deleted (due_uploads.lua). `ARTIFACT` is empty for a value of the journal.

The SCOPE of a grant is its session's name or, without a session, the id of the run at the root of
its tree; all notes about its grants are on the shard of that.

A workspace's id is `run:ID` or `session:SESSION`, and its shard that of the run or session
(due_workspaces.lua).

What will need a worker of a queue by itself: delayed runs, and parked ones with a wait that
expires, by their ids; schedules, as `schedule:NAME`.

Channels: `P worker:WORKER` carries orders to a worker process (`cancel ID REASON`, `wake ID`);
`P session:SESSION` announces new runs of a session; the
result key of a run, below, is also the channel on which its end is published.

Outside the shard's slot, in the format of Celery's own result backend, so that plain Celery
clients read it (celery/backends/base.py, `task_keyprefix`): `celery-task-meta-ID`, string,
the result of a finished run, stored here and nowhere else; gone after the retention.
"""

import binascii
import itertools
import os
import uuid
from dataclasses import dataclass

DEFAULT_NAMESPACE = "skillfleet"


@dataclass(frozen=True)
class Keyspace:
    """The location of a fleet's data: its namespace and the number of shards of its ledger."""

    namespace: str = DEFAULT_NAMESPACE
    shards: int = 1

    @property
    def broker_prefix(self) -> str:
        """The prefix of the broker's and the result backend's keys on Redis.

        Empty for the default namespace, so that plain Celery clients reach it unconfigured.
        """
        return "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}:"

    def shard(self, run_id: str) -> int:
        """Return the shard of a run: it follows from its id alone."""
        if self.shards == 1:
            return 0
        return binascii.crc32(run_id.encode()) % self.shards

    def shard_prefix(self, shard: int) -> str:
        """Return the prefix of all keys of a shard, with the hash tag of its slot."""
        return f"{{{self.namespace}:{shard}}}:"

    def prefix(self, run_id: str) -> str:
        """Return the prefix of all keys of a run."""
        return self.shard_prefix(self.shard(run_id))

    def prefixes(self) -> list[str]:
        """Return the prefixes of all shards."""
        return [self.shard_prefix(shard) for shard in range(self.shards)]

    def result_key(self, run_id: str) -> str:
        """Celery's key (and channel) of a run's result."""
        return f"{self.broker_prefix}celery-task-meta-{run_id}"

    def broker_list(self, queue: str, priority: int) -> str:
        """Return the list that kombu's Redis transport reads for a queue and priority step."""
        suffix = f"{BROKER_SEPARATOR}{priority}" if priority else ""
        return f"{self.broker_prefix}{queue}{suffix}"

    def new_id(self, beside: str | None = None) -> str:
        """Return a fresh run id; on the same shard as the run `beside` when one is given."""
        while True:
            run_id = random_uuid()
            if beside is None or self.shard(run_id) == self.shard(beside):
                return run_id

    def child_id(self, parent: str, call: str) -> str:
        """Return the run id of a call that a run makes: the same call, the same run and shard."""
        for number in itertools.count():
            name = f"{self.namespace}\0{parent}\0{call}\0{number}"
            run_id = str(uuid.uuid5(_KEY_SPACE, name))
            if self.shard(run_id) == self.shard(parent):
                return run_id
        raise AssertionError("count() does not end")

    def key_id(self, skill: str, idempotency_key: str, beside: str | None = None) -> str:
        """Return the run id of an idempotency key: the same key names the same run.

        A called run must be on the shard of its root (`beside`): there, the same key and the
        same shard name the same run.
        """
        name = f"{self.namespace}\0{skill}\0{idempotency_key}"
        run_id = str(uuid.uuid5(_KEY_SPACE, name))
        salt = 0
        while beside is not None and self.shard(run_id) != self.shard(beside):
            salt += 1
            run_id = str(uuid.uuid5(_KEY_SPACE, f"{name}\0{salt}"))
        return run_id


def random_uuid() -> str:
    """Return a random UUID (RFC 9562, version 4); a fifth of the cost of `str(uuid.uuid4())`."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


BROKER_SEPARATOR = "\x06\x16"
"""kombu's separator between queue and priority (kombu/transport/redis.py, Channel.sep)."""

_KEY_SPACE = uuid.UUID("0d8f7b64-4a8e-4c0e-9d0b-7f3c2a51e6aa")
