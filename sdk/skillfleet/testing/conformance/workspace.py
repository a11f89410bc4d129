"""Conformance of storages of workspaces."""

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.errors import WorkspaceBusy, WorkspaceConflict, WorkspaceDenied
from skillfleet.ports.grants import GrantParty, RunGrants
from skillfleet.ports.scope import RunScope
from skillfleet.ports.workspace import FileInfo, FileStore, WorkspaceProvider, WorkspaceStorage
from skillfleet.testing.conformance.object_graph import reachable
from skillfleet.testing.local_grants import awaited, local_authority
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.commit import recover
from skillfleet.workspaces.desk import Attempt, Exchange

READ, OVERLAY, DIRECT = WorkspaceMode
ALL = WorkspaceAccess.dynamic(allowed_modes=(READ, OVERLAY, DIRECT))
FILES: Mapping[str, bytes] = {"a.txt": b"one", "src/main.py": b"print()", "src/.env": b"KEY=1"}
_WORKSPACE = "session:conformance"
BAD_PATHS = (
    *("", "/etc/passwd", "..", "../a.txt", "src/../a.txt", "./a.txt", "src//main.py", "src/"),
    *("a\0.txt", "a\n.txt", "a\\b", "e\u0301.txt", "\ud800", "a\u200b.txt", "x" * 256),
    *("a\u2028b", "a\ufe0f.txt", "a\u3164.txt", "a\u034f.txt"),
    "/".join(["d"] * 65),
)
Body = Callable[["Desk"], Awaitable[None]]


class Desk:
    """A storage with clients of several attempts, and a clock."""

    def __init__(self, provider: WorkspaceProvider) -> None:
        self.provider = provider
        self.storage = provider.storage(_WORKSPACE)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.authority = local_authority(self._time)
        self.cleanups: dict[str, list[Callable[[], Awaitable[object]]]] = {}
        self.approvals: list[str] = []
        self.approved = True
        self.lost = False

    def _time(self) -> float:
        return self.now.timestamp()

    def client(
        self,
        access: WorkspaceAccess = ALL,
        run: str = "run-1",
        storage: WorkspaceStorage | None = None,
        number: int = 1,
    ) -> StoredWorkspaceClient:
        async def approve(question: str) -> bool:
            self.approvals.append(question)
            return self.approved

        async def check_lease() -> None:
            if self.lost:
                raise LostLeaseError

        defer = self.cleanups.setdefault(run, []).append
        party = GrantParty(run, f"agent of {run}", "root")
        grants = RunGrants(self.authority, party, awaited)
        exchange = Exchange(_WORKSPACE, grants, self.provider.storage)
        attempt = Attempt(run, number, approve, defer, check_lease, exchange, lambda: self.now)
        return StoredWorkspaceClient(storage or self.storage, access, attempt)

    async def end(self, run: str) -> None:
        for cleanup in self.cleanups.pop(run):
            await cleanup()

    async def replace(self, files: Mapping[str, bytes]) -> None:
        for path in await self.content():
            await self.storage.files.delete(path)
        for path, data in files.items():
            await self.storage.files.write(path, data)

    async def content(self) -> dict[str, bytes]:
        files = self.storage.files
        return {info.path: await files.read(info.path) or b"" for info in await files.list()}


class LostLeaseError(Exception):
    """Another attempt has the lease."""


class KilledProcess(BaseException):
    """Ends a commit as the death of its process does: no handler of errors runs."""


class DyingFiles(FileStore):
    """A store whose process dies at a write."""

    def __init__(self, store: FileStore, storage: "DyingStorage") -> None:
        self._store = store
        self._storage = storage

    async def list(self) -> list[FileInfo]:
        return await self._store.list()

    async def stat(self, path: str) -> FileInfo | None:
        return await self._store.stat(path)

    async def read(self, path: str) -> bytes | None:
        return await self._store.read(path)

    async def write(self, path: str, data: bytes) -> None:
        self._storage.count()
        await self._store.write(path, data)

    async def delete(self, path: str) -> bool:
        self._storage.count()
        return await self._store.delete(path)


class DyingStorage(WorkspaceStorage):
    """A storage whose process dies at a write, once `left` is a number."""

    def __init__(self, storage: WorkspaceStorage) -> None:
        self._storage = storage
        self.left: int | None = None

    @property
    def files(self) -> FileStore:
        return DyingFiles(self._storage.files, self)

    @property
    def state(self) -> FileStore:
        return DyingFiles(self._storage.state, self)

    def writer(self, holder: str) -> contextlib.AbstractAsyncContextManager[None]:
        return self._storage.writer(holder)

    def count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledProcess


class WorkspaceSuite(ABC):
    """Subclass it as `Test...` and implement `provider`."""

    @abstractmethod
    def provider(self) -> contextlib.AbstractAsyncContextManager[WorkspaceProvider]:
        """Return a provider whose workspaces are empty."""

    def run(self, body: Body, files: Mapping[str, bytes] = FILES) -> None:
        """Await `body` with a workspace that has these files."""

        async def main() -> None:
            async with self.provider() as provider:
                desk = Desk(provider)
                await desk.replace(files)
                await body(desk)
                await provider.aclose()

        asyncio.run(main())

    def test_a_store_keeps_what_is_written(self) -> None:
        async def body(desk: Desk) -> None:
            files = desk.storage.files
            assert [(info.path, info.size_bytes) for info in await files.list()] == [
                ("a.txt", 3),
                ("src/.env", 5),
                ("src/main.py", 7),
            ]
            assert await files.read("missing.txt") is None
            assert await files.stat("src/none/x") is None
            await files.write("a.txt", b"")
            assert await files.read("a.txt") == b""
            assert await files.delete("a.txt")
            assert not await files.delete("a.txt")
            assert await files.delete("src/main.py")
            assert await files.delete("src/.env")
            await files.write("src", b"a file where a folder was")
            assert await desk.content() == {"src": b"a file where a folder was"}

        self.run(body)

    def test_workspaces_are_separate(self) -> None:
        async def body(desk: Desk) -> None:
            for other in (
                "session:Conformance",
                "session:conformance ",
                "run:conformance",
                "a/../b",
            ):
                assert await desk.provider.storage(other).files.list() == []
            again = desk.provider.storage("session:conformance")
            assert await again.files.read("a.txt") == b"one"

        self.run(body)

    @pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
    def test_a_bad_path_is_refused_by_the_store_and_by_views(self, path: str) -> None:
        async def body(desk: Desk) -> None:
            files = desk.storage.files
            view = await desk.client().open_view(
                purpose="p", hints=["**"], mode=OVERLAY, reason="r"
            )
            for call in (
                *(files.stat(path), files.read(path), files.write(path, b""), files.delete(path)),
                *(view.read(path), view.write(path, b""), view.delete(path)),
            ):
                with pytest.raises(WorkspaceDenied):
                    await call

        self.run(body)

    @pytest.mark.parametrize(
        "path", ["A.txt", "SRC/new.py", "src/MAIN.py", "\u017frc/x", "a.txt/x", "src"]
    )
    def test_a_name_that_collides_is_refused(self, path: str) -> None:
        async def body(desk: Desk) -> None:
            for mode in (OVERLAY, DIRECT):
                view = await desk.client().open_view(
                    purpose="p", hints=["**"], mode=mode, reason="r"
                )
                with pytest.raises(WorkspaceDenied):
                    await view.write(path, b"x")
            await desk.end("run-1")
            with pytest.raises(WorkspaceDenied):
                await desk.storage.files.write(path, b"x")
            assert await desk.content() == FILES

        self.run(body)

    def test_an_overlay_shows_and_commits_its_changes_as_a_whole(self) -> None:
        async def body(desk: Desk) -> None:
            view = await desk.client().open_view(
                purpose="p", hints=["**"], mode=OVERLAY, reason="r"
            )
            await view.write("a.txt", b"two")
            await view.write("new/b.txt", b"b")
            await view.delete("src/main.py")
            with pytest.raises(FileNotFoundError):
                await view.read("src/main.py")
            assert await view.read("a.txt") == b"two"
            assert [each.path for each in await view.list()] == ["a.txt", "new/b.txt", "src/.env"]
            assert await desk.content() == FILES
            shown = [(each.path, each.operation, each.content) for each in await view.patches()]
            assert shown == [
                ("a.txt", "update", b"two"),
                ("new/b.txt", "create", b"b"),
                ("src/main.py", "delete", None),
            ]
            assert await view.commit() == ["a.txt", "new/b.txt", "src/main.py"]
            assert await view.patches() == []
            after = {"a.txt": b"two", "new/b.txt": b"b", "src/.env": b"KEY=1"}
            assert await desk.content() == after

        self.run(body)

    def test_a_file_gives_way_to_a_folder_once_its_deletion_is_committed(self) -> None:
        async def body(desk: Desk) -> None:
            client = desk.client()
            view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            for old, new in (("file", "file/new"), ("file/new", "file")):
                await view.delete(old)
                with pytest.raises(WorkspaceDenied, match=f"commit the deletion of '{old}' first"):
                    await view.write(new, b"new")
                await view.commit()
                await view.write(new, b"new")
                await view.commit()
                assert await desk.content() == {new: b"new"}

        self.run(body, {"file": b"old"})

    def test_a_change_that_is_taken_back_is_no_patch_and_discard_drops_all(self) -> None:
        async def body(desk: Desk) -> None:
            view = await desk.client().open_view(
                purpose="p", hints=["**"], mode=OVERLAY, reason="r"
            )
            await view.write("a.txt", b"two")
            await view.write("a.txt", b"one")
            await view.write("new.txt", b"x")
            await view.delete("new.txt")
            assert await view.patches() == []
            await view.write("a.txt", b"two")
            await view.discard()
            assert await view.patches() == []
            assert await view.read("a.txt") == b"one"
            assert await view.commit() == []
            assert await desk.content() == FILES

        self.run(body)

    @pytest.mark.parametrize("change", ["write", "delete", "create", "collide"])
    def test_a_conflict_commits_nothing(self, change: str) -> None:
        async def body(desk: Desk) -> None:
            view = await desk.client().open_view(
                purpose="p", hints=["**"], mode=OVERLAY, reason="r"
            )
            for path in ("a.txt", "new.txt", "src/main.py"):
                await view.write(path, b"staged")
            files = desk.storage.files
            match change:
                case "write":
                    await files.write("a.txt", b"foreign")
                case "delete":
                    await files.delete("a.txt")
                case "create":
                    await files.write("new.txt", b"foreign")
                case _:
                    await files.write("NEW.txt", b"foreign")
            before = await desk.content()
            with pytest.raises(WorkspaceConflict) as conflict:
                await view.commit()
            expected = ("a.txt",) if change in ("write", "delete") else ("new.txt",)
            assert conflict.value.paths == expected
            assert await desk.content() == before
            assert len(await view.patches()) == 3

        self.run(body)

    def test_a_later_attempt_gets_the_same_grant_with_its_overlay(self) -> None:
        async def body(desk: Desk) -> None:
            first = await desk.client().open_view(
                purpose="p", hints=["**"], mode=OVERLAY, reason="r"
            )
            await first.write("a.txt", b"two")
            client = desk.client()
            view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            assert view.grant == first.grant
            assert await view.read("a.txt") == b"two"
            other = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            assert other.grant.grant_id != view.grant.grant_id
            assert await other.read("a.txt") == b"one"
            assert len(await client.list_grants()) == 2
            assert await desk.client(run="run-2").list_grants() == []
            with pytest.raises(WorkspaceDenied):
                await desk.client(run="run-2").view(view.grant)

        self.run(body)

    def test_an_attempt_that_lost_its_lease_commits_nothing_and_takes_no_right(self) -> None:
        async def body(desk: Desk) -> None:
            client = desk.client()
            view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            await view.write("a.txt", b"two")
            desk.lost = True
            with pytest.raises(LostLeaseError):
                await view.commit()
            with pytest.raises(LostLeaseError):
                await client.open_view(purpose="p", hints=["**"], mode=DIRECT, reason="r")
            await desk.end("run-1")
            desk.lost = False
            assert await desk.content() == FILES
            assert await view.commit() == ["a.txt"]

        self.run(body)

    def test_an_earlier_attempt_is_refused_once_a_later_one_uses_the_overlay(self) -> None:
        async def body(desk: Desk) -> None:
            request: dict[str, Any] = {"purpose": "p", "hints": ["**"], "reason": "r"}
            first = await desk.client().open_view(mode=OVERLAY, **request)
            await first.write("a.txt", b"first")
            second = await desk.client(number=2).open_view(mode=OVERLAY, **request)
            for call in (first.write("a.txt", b"late"), first.discard(), first.commit()):
                with pytest.raises(WorkspaceDenied, match="attempt 2"):
                    await call
            assert [patch.content for patch in await second.patches()] == [b"first"]
            assert await second.commit() == ["a.txt"]
            assert (await desk.content())["a.txt"] == b"first"

        self.run(body)

    @pytest.mark.parametrize("foreign", [None, "a.txt", "b.txt", "c.txt"])
    def test_a_commit_that_stops_anywhere_is_completed_or_undone(self, foreign: str | None) -> None:
        start = {"a.txt": b"1", "b.txt": b"2"}
        end = {"a.txt": b"10", "c.txt": b"3"}

        async def body(desk: Desk) -> None:
            for writes in itertools.count():
                await desk.replace(start)
                dying = DyingStorage(desk.storage)
                client = desk.client(run=f"run-{writes}", storage=dying)
                view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
                await view.write("a.txt", b"10")
                await view.delete("b.txt")
                await view.write("c.txt", b"3")
                dying.left = writes
                with contextlib.suppress(KilledProcess):
                    await view.commit()
                if foreign is not None:
                    await desk.storage.files.write(foreign, b"foreign")
                await recover(desk.storage)
                found = await desk.content()
                change = {} if foreign is None else {foreign: b"foreign"}
                assert found in ({**start, **change}, {**end, **change})
                if dying.left >= 0:
                    assert found == {**end, **change}
                    return

        self.run(body, {})

    def test_one_direct_writer_at_a_time_and_the_error_names_it(self) -> None:
        async def body(desk: Desk) -> None:
            request: dict[str, Any] = {"purpose": "p", "hints": ["**"], "reason": "r"}
            view = await desk.client().open_view(mode=DIRECT, **request)
            await view.write("a.txt", b"direct")
            assert await desk.storage.files.read("a.txt") == b"direct"
            assert await view.patches() == []
            with pytest.raises(WorkspaceDenied, match="no staged"):
                await view.commit()
            other = desk.client(run="run-2")
            with pytest.raises(WorkspaceBusy, match="run run-1, attempt 1") as busy:
                await other.open_view(mode=DIRECT, **request)
            assert busy.value.holder == "run run-1, attempt 1"
            overlay = await other.open_view(mode=OVERLAY, **request)
            await overlay.write("src/main.py", b"2")
            with pytest.raises(WorkspaceBusy):
                await overlay.commit()
            await desk.end("run-1")
            assert await overlay.commit() == ["src/main.py"]
            await other.open_view(mode=DIRECT, **request)

        self.run(body)

    def test_limits_hold_on_every_call(self) -> None:
        access = WorkspaceAccess.dynamic(
            max_files=2,
            allowed_modes=(READ, OVERLAY),
            deny_patterns=("**/.env",),
            max_total_size_bytes=8,
        )

        async def body(desk: Desk) -> None:
            client = desk.client(access)
            assert [each.path for each in await client.search(query="")] == ["a.txt", "src/main.py"]
            refused: list[dict[str, Any]] = [
                {"files": ["a.txt"], "mode": DIRECT, "reason": "r"},
                {"files": ["a.txt"], "mode": "anything", "reason": "r"},
                {"files": ["a.txt"], "mode": READ, "reason": " "},
                {"files": ["a", "b", "c"], "mode": READ, "reason": "r"},
                {"files": ["src/.env"], "mode": READ, "reason": "r"},
                {"files": [], "mode": READ, "reason": "r"},
                {"files": ["../**"], "mode": READ, "reason": "r"},
            ]
            for request in refused:
                with pytest.raises(WorkspaceDenied):
                    await client.request_access(**request)
            view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            for path in ("src/.env", ".env", "src/.ENV"):
                with pytest.raises(WorkspaceDenied):
                    await view.write(path, b"")
            await view.write("x", b"12345678")
            with pytest.raises(WorkspaceDenied, match="max_total_size_bytes"):
                await view.read("a.txt")
            await view.write("x", b"1")
            assert await view.read("a.txt") == b"one"
            with pytest.raises(WorkspaceDenied, match="max_files"):
                await view.write("y", b"")
            with pytest.raises(WorkspaceDenied, match="max_files"):
                await (await client.view(view.grant)).read("src/main.py")

        self.run(body)

    def test_a_grant_opens_its_files_only_and_read_only_is_that(self) -> None:
        async def body(desk: Desk) -> None:
            client = desk.client()
            grant = await client.request_access(files=["src/*.py"], mode=READ, reason="r")
            view = await client.view(grant)
            assert await view.read("src/main.py") == b"print()"
            for call in (
                *(view.read("a.txt"), view.read("src/.env")),
                *(view.write("src/main.py", b""), view.delete("src/main.py"), view.commit()),
            ):
                with pytest.raises(WorkspaceDenied):
                    await call

        self.run(body)

    def test_an_expired_grant_opens_nothing(self) -> None:
        access = WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,), ttl_seconds=60)

        async def body(desk: Desk) -> None:
            client = desk.client(access)
            view = await client.open_view(purpose="p", hints=["**"], mode=OVERLAY, reason="r")
            await view.write("a.txt", b"two")
            assert view.grant.expires_at == desk.now + timedelta(seconds=60)
            desk.now += timedelta(seconds=60)
            for call in (
                *(view.list(), view.read("a.txt"), view.write("a.txt", b""), view.commit()),
                *(view.delete("a.txt"), view.patches(), view.discard(), client.view(view.grant)),
            ):
                with pytest.raises(WorkspaceDenied, match="expired"):
                    await call
            assert await client.list_grants() == []
            assert await desk.content() == FILES

        self.run(body)

    def test_an_approval_is_asked_for_and_a_refusal_opens_nothing(self) -> None:
        access = WorkspaceAccess.dynamic(require_human_approval=True)

        async def body(desk: Desk) -> None:
            client = desk.client(access)
            await client.open_view(purpose="tests", hints=["*.txt"], reason="to count")
            assert desk.approvals == ["Allow read_only access to a.txt for tests? Reason: to count"]
            desk.approved = False
            with pytest.raises(WorkspaceDenied, match="refused"):
                await client.request_access(files=["src/**"], mode=READ, reason="r")
            assert len(await client.list_grants()) == 1

        self.run(body)

    def test_access_to_nothing_opens_nothing(self) -> None:
        async def body(desk: Desk) -> None:
            client = desk.client(WorkspaceAccess.none())
            for call in (
                *(client.search(query=""), client.list_grants(), client.view("g-1")),
                client.request_access(files=["a.txt"], mode=READ, reason="r"),
                client.open_view(purpose="p", reason="r"),
            ):
                with pytest.raises(WorkspaceDenied):
                    await call

        self.run(body)

    def test_a_client_shows_the_skill_neither_scope_nor_storage(self) -> None:
        async def body(desk: Desk) -> None:
            ctx = LocalRunContext(auth=NoAuth(), workspace=desk.provider)
            view = await ctx.workspace.open_view(purpose="p", hints=["x.txt"], mode=DIRECT)
            for held in (ctx.workspace, view):
                shown = [
                    path
                    for path, found in reachable(held)
                    if isinstance(found, RunScope | WorkspaceStorage)
                ]
                assert not shown, "keep it in a skillfleet.hidden_state.HiddenState"
            await ctx.aclose()

        self.run(body)
