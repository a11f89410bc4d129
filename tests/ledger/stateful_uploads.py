"""The rules of `ScriptsMachine` about uploads to the object store; no bytes are ever written."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skillfleet_ledger import Ledger
from skillfleet_ledger.artifacts import LeaseLostError
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.records import Lease
from tests.ledger.durable import entry
from tests.ledger.helpers import LONG_MS
from tests.ledger.model import ModelRun

T = TypeVar("T")
PICK = st.integers(0, 99)
NAMES = st.sampled_from(["o1", "o2:x", ""])
MOST = 9


@dataclass(frozen=True)
class Upload:
    """An upload that was noted: `name` is its artifact, '' for a value of the journal."""

    run: ModelRun
    lease: Lease
    object_id: str
    name: str

    @property
    def member(self) -> str:
        """The upload as keys.py describes it."""
        return f"{self.lease.run_id}:{self.lease.token}:{self.object_id}:{self.name}"


class UploadRules(RuleBasedStateMachine):
    """Rules that note uploads, commit them or not, and sweep what nothing refers to."""

    ledger: Ledger
    client: Any
    runs: list[ModelRun]

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, Upload] = {}
        self.committed: dict[tuple[str, str], str] = {}
        self.values: set[tuple[str, str]] = set()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def pick_lease(self, number: int) -> tuple[ModelRun, Lease]:
        raise NotImplementedError

    @property
    def noted(self) -> str:
        """The key of the uploads."""
        return f"{self.ledger.keys.shard_prefix(0)}uploads"

    @precondition(lambda self: any(run.leases for run in self.runs))
    @rule(number=PICK, name=NAMES, commits=st.booleans(), sweeps=st.booleans())
    def upload_an_object(self, number: int, name: str, *, commits: bool, sweeps: bool) -> None:
        run, lease = self.pick_lease(number)
        upload = Upload(run, lease, f"{number}" if name else f"v{number % 3}", name)
        begin = ("begin_upload", lease, upload.object_id, name, LONG_MS)
        try:
            assert self.run(self.ledger.artifacts.fenced(*begin)) == 1
        except LeaseLostError:
            assert not run.holds(lease)
            return
        assert run.holds(lease)
        self.uploads[upload.member] = upload
        if commits:
            self.commit(upload)
        if sweeps:
            self.sweep_once(99, dies=False)

    def commit(self, upload: Upload) -> None:
        run_id = upload.lease.run_id
        if upload.name:
            described = {"blob": upload.object_id, "chunks": 0, "object": True}
            args = (upload.name, orjson.dumps(described), MOST)
            self.run(self.ledger.artifacts.fenced("commit_artifact", upload.lease, *args))
            self.committed[run_id, upload.name] = upload.object_id
        else:
            # The model keeps entries by identity, once: that of a value is its digest.
            new = entry(upload.object_id, value=None, digest=upload.object_id, size=99_999)
            upload.run.record(upload.lease, new.identity, None)
            write = self.ledger.journals.record(
                upload.lease, new, {}, version="1", clears_step=True
            )
            self.run(write)
            self.values.add((run_id, upload.object_id))

    def needs(self, upload: Upload) -> bool:
        run_id = upload.lease.run_id
        if upload.name:
            is_committed = self.committed.get((run_id, upload.name)) == upload.object_id
            return is_committed or upload.run.holds(upload.lease)
        return not upload.run.state.terminal or (run_id, upload.object_id) in self.values

    @precondition(lambda self: self.uploads)
    @rule(dies=st.booleans(), most=st.sampled_from([1, 99, 99]))
    def sweep(self, most: int, *, dies: bool) -> None:
        self.sweep_once(most, dies=dies)

    def sweep_once(self, most: int, *, dies: bool) -> None:
        """Look at all uploads; the sweeper may die before it has deleted the objects."""
        for member in self.uploads:
            self.client.zadd(self.noted, {member: 0}, xx=True)
        prefix = self.ledger.keys.shard_prefix(0)
        call = run_script(self.ledger.connection, "due_uploads", (prefix,), (most, LONG_MS))
        garbage = {member.decode() for member in self.run(call)}
        unneeded = {member for member, upload in self.uploads.items() if not self.needs(upload)}
        assert garbage <= unneeded
        if most > len(self.uploads):
            assert garbage == unneeded
            assert self.client.zcount(self.noted, "-inf", 0) == 0
        if garbage and not dies:
            self.client.zrem(self.noted, *garbage)
            for member in garbage:
                del self.uploads[member]

    @invariant()
    def uploads_equal_the_model(self) -> None:
        found = {member.decode() for member in self.client.zrange(self.noted, 0, -1)}
        assert found == self.uploads.keys()
