"""Access to files that one run hands over to another, over each kind of storage."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.errors import GrantInvalid, WorkspaceBusy, WorkspaceDenied
from skillfleet.ports.grants import GrantAuthority, GrantParty, RunGrants
from skillfleet.ports.scope import RunScope
from skillfleet.ports.workspace import (
    WorkspaceClient,
    WorkspaceGrant,
    WorkspaceProvider,
    WorkspaceStorage,
)
from skillfleet.testing import InProcessA2AClient, LocalSession, run_skill
from skillfleet.testing.local_grants import awaited, local_authority
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.directory import DirectoryWorkspaces
from skillfleet.workspaces.memory import MemoryWorkspaces

READ, OVERLAY, DIRECT = WorkspaceMode
ALL = WorkspaceAccess.dynamic(
    allowed_modes=tuple(WorkspaceMode), deny_patterns=("**/.env",), require_reason=False
)
CHAT, TREE = "session:/chat", "run:run-1"
FILES = {"src/a": b"a", "src/deep/b": b"b", "src/.env": b"KEY=1", "notes": b"n"}
CALLER = GrantParty("run-1", "writer", "run-1", "/chat", "ada")
CALLED = GrantParty("run-2", "reviewer", "run-1", None, "ada")


@dataclass
class Files:
    """The files of a session, and clients of runs of its tree."""

    provider: WorkspaceProvider
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    ahead: timedelta = timedelta()
    """How far the clock of the run's process is ahead of the authority's."""
    approvals: list[str] = field(default_factory=list)
    ends: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    authority: GrantAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = local_authority(self.time)

    def time(self) -> float:
        return self.now.timestamp()

    def client(
        self, party: GrantParty, access: WorkspaceAccess = ALL, handed_over: str | None = None
    ) -> WorkspaceClient:
        async def approve(question: str) -> bool:
            self.approvals.append(question)
            return True

        workspace = CHAT if party.session else TREE
        grants = RunGrants(self.authority, party, awaited, handed_over)
        exchange = Exchange(workspace, grants, self.provider.storage)
        attempt = Attempt(
            party.run_id,
            1,
            approve,
            self.ends.append,
            held,
            exchange,
            now=lambda: self.now + self.ahead,
        )
        return StoredWorkspaceClient(self.provider.storage(workspace), access, attempt)

    async def own(self, mode: WorkspaceMode = OVERLAY, files: str = "**") -> WorkspaceGrant:
        """A grant of the calling run, as its client negotiates it."""
        return await self.client(CALLER).request_access(files=[files], mode=mode, reason="")

    async def handed_over(
        self, own: WorkspaceGrant | None = None, access: WorkspaceAccess = ALL, **asked: Any
    ) -> tuple[WorkspaceClient, WorkspaceGrant]:
        """The client of the called run, and the grant that it has installed."""
        token = await self.client(CALLER).delegate(
            own or await self.own(), **({"audience": "reviewer"} | asked)
        )
        client = self.client(CALLED, access, token)
        return client, await client.install_grant()

    async def content(self, workspace: str) -> dict[str, bytes]:
        files = self.provider.storage(workspace).files
        return {info.path: await files.read(info.path) or b"" for info in await files.list()}


@pytest.fixture(params=["memory", "directory"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    provider = MemoryWorkspaces() if request.param == "memory" else DirectoryWorkspaces(tmp_path)
    for path, data in FILES.items():
        await provider.storage(CHAT).files.write(path, data)
    return Files(provider)


async def held() -> None:
    """Nothing takes the lease of these attempts."""


def refused(reason: str) -> Any:
    return pytest.raises(GrantInvalid, check=lambda error: error.reason == reason)


async def test_a_called_run_reads_what_was_handed_over_and_nothing_else(files: Files) -> None:
    client, grant = await files.handed_over(allow_patterns=["src/**"], deny_patterns=["**/b"])
    assert (grant.mode, grant.files) == (READ, ("src/**",))
    assert grant.expires_at == files.now + timedelta(seconds=300)
    assert await client.list_grants() == [grant]
    view = await client.view(grant)
    assert [each.path for each in await view.list()] == ["src/a"]
    assert await view.read("src/a") == b"a"
    for path in ("notes", "src/deep/b", "src/.env", "SRC/a", "src/../notes", "/notes", "src\\a"):
        with pytest.raises(WorkspaceDenied):
            await view.read(path)
    with pytest.raises(WorkspaceDenied):
        await view.write("src/a", b"")
    # It comes beside the run's own workspace, which stays the one that it negotiates.
    assert await client.search(query="") == []


async def test_an_overlay_of_a_called_run_is_committed_to_the_caller_s_files(files: Files) -> None:
    client, grant = await files.handed_over(mode=OVERLAY, outputs_prefix="out")
    view = await client.view(grant)
    await view.write("out/report", b"r")
    for change in (view.write("src/a", b""), view.delete("src/a"), view.write("output", b"")):
        with pytest.raises(WorkspaceDenied, match="does not let"):
            await change
    assert await files.content(CHAT) == FILES
    # A later attempt of the run finds what is staged, by the grant's id.
    later = await files.client(CALLED).view(grant.grant_id)
    assert await later.commit() == ["out/report"]
    assert await files.content(CHAT) == FILES | {"out/report": b"r"}
    assert await files.content(TREE) == {}


async def test_the_right_to_write_is_that_of_the_workspace(files: Files) -> None:
    own = await files.own(DIRECT)
    client, grant = await files.handed_over(own, mode=DIRECT)
    await (await client.view(grant)).write("src/a", b"new")
    with pytest.raises(WorkspaceBusy, match="run-2"):
        await files.client(CALLER).view(own)
    for end in files.ends:
        await end()
    assert await (await files.client(CALLER).view(own)).read("src/a") == b"new"


@pytest.mark.parametrize("end", ["expired", "revoked"])
async def test_every_use_of_a_view_ends_with_the_grant(files: Files, end: str) -> None:
    client, grant = await files.handed_over(mode=OVERLAY, ttl_seconds=60)
    view = await client.view(grant)
    await view.write("src/a", b"new")
    if end == "expired":
        files.now += timedelta(seconds=60)
    else:
        await files.authority.revoke_all("/chat")
    for use in (
        *(view.list(), view.read("src/a"), view.write("src/a", b""), view.delete("src/a")),
        *(view.patches(), view.commit(), view.discard(), client.view(grant)),
        *(client.delegate(grant, audience="reviewer"), client.install_grant()),
    ):
        with refused(end):
            await use
    assert await client.list_grants() == []
    assert await files.content(CHAT) == FILES


async def test_what_is_handed_on_is_no_wider_than_any_link(files: Files) -> None:
    own = await files.own(OVERLAY, "src/**")
    client, grant = await files.handed_over(own, mode=OVERLAY, deny_patterns=["**/b"])
    with refused("wider"):
        await client.delegate(grant, audience="reviewer", mode=DIRECT)
    token = await client.delegate(
        audience="third", mode=OVERLAY, allow_patterns=["**"], ttl_seconds=9_999
    )
    third = files.client(GrantParty("run-3", "third", "run-1", None, "ada"), ALL, token)
    last = await third.install_grant()
    assert last.expires_at == grant.expires_at
    view = await third.view(last)
    assert [each.path for each in await view.list()] == ["src/a"]
    for path in ("notes", "src/deep/b", "src/.env"):
        with pytest.raises(WorkspaceDenied):
            await view.write(path, b"")


async def test_nothing_is_delegated_that_the_run_was_not_granted(files: Files) -> None:
    client = files.client(CALLER)
    with pytest.raises(WorkspaceDenied, match="0 grants"):
        await client.delegate(audience="reviewer")
    one, other = await files.own(READ, "src/**"), await files.own(OVERLAY, "notes")
    with pytest.raises(WorkspaceDenied, match="2 grants"):
        await client.delegate(audience="reviewer")
    with refused("wider"):
        await client.delegate(one, audience="reviewer", mode=OVERLAY)
    with pytest.raises(WorkspaceDenied, match="no grant"):
        await files.client(CALLED).delegate(other, audience="third")
    called, grant = await files.handed_over(one)
    with pytest.raises(WorkspaceDenied):
        await (await called.view(grant)).read("notes")


@pytest.mark.parametrize("name", ["allow_patterns", "deny_patterns"])
async def test_patterns_are_a_list(files: Files, name: str) -> None:
    asked: dict[str, Any] = {name: "**"}
    with pytest.raises(WorkspaceDenied, match=name):
        await files.handed_over(**asked)


async def test_access_that_ends_soon_is_not_handed_over_for_longer(files: Files) -> None:
    short = WorkspaceAccess.dynamic(require_reason=False, ttl_seconds=20)
    client = files.client(CALLER, short)
    own = await client.request_access(files=["**"], mode=READ, reason="")
    called = files.client(CALLED, ALL, await client.delegate(own, audience="reviewer"))
    grant = await called.install_grant()
    assert grant.expires_at == own.expires_at == files.now + timedelta(seconds=20)


async def test_what_the_calling_skill_may_not_see_is_not_handed_over(files: Files) -> None:
    client, grant = await files.handed_over(access=WorkspaceAccess.dynamic())
    view = await client.view(grant)
    assert "src/.env" not in [each.path for each in await view.list()]
    with pytest.raises(WorkspaceDenied):
        await view.read("src/.env")


async def test_the_access_of_the_called_skill_holds_as_well(files: Files) -> None:
    one_file = WorkspaceAccess.dynamic(
        max_files=1, deny_patterns=("src/a",), allowed_modes=(OVERLAY,), ttl_seconds=10
    )
    client, grant = await files.handed_over(access=one_file, mode=OVERLAY)
    assert grant.expires_at == files.now + timedelta(seconds=10)
    view = await client.view(grant)
    with pytest.raises(WorkspaceDenied, match="does not open"):
        await view.read("src/a")
    await view.read("notes")
    with pytest.raises(WorkspaceDenied, match="max_files=1"):
        await view.read("src/deep/b")
    # The limit is that of the attempt: for its own workspace and the other one together.
    own = await client.open_view(purpose="p", hints=["x.txt"], mode=OVERLAY, reason="r")
    with pytest.raises(WorkspaceDenied, match="max_files=1"):
        await own.write("x.txt", b"")
    with pytest.raises(WorkspaceDenied, match="may not use the mode read_only"):
        await files.handed_over(access=one_file, mode=READ)
    with pytest.raises(WorkspaceDenied, match="no access"):
        await files.handed_over(access=WorkspaceAccess.none())


async def test_a_person_approves_what_is_handed_over_where_the_skill_says_so(files: Files) -> None:
    asks = WorkspaceAccess.dynamic(require_human_approval=True)
    await files.handed_over(access=asks, allow_patterns=["src/**"])
    assert files.approvals == [
        "Allow read_only access to src/**? Reason: the calling run hands it over"
    ]


async def test_only_the_run_that_a_grant_is_for_may_install_it(files: Files) -> None:
    token = await files.client(CALLER).delegate(await files.own(), audience="reviewer")
    for party, reason in (
        (GrantParty("run-3", "outsider", "run-1", None, "ada"), "audience"),
        (GrantParty("run-3", "reviewer", "run-9", "/other", "ada"), "session"),
        (GrantParty("run-3", "reviewer", "run-1", None, "bob"), "subject"),
    ):
        with refused(reason):
            await files.client(party).install_grant(token)
    await files.client(CALLED).install_grant(token)
    with refused("replayed"):
        await files.client(GrantParty("run-4", "reviewer", "run-1", None, "ada")).install_grant(
            token
        )
    with refused("signature"):
        await files.client(CALLED).install_grant("forged")
    with pytest.raises(WorkspaceDenied, match="no grant was handed over"):
        await files.client(CALLED).install_grant()


writer, reviewer = Agent("writer"), Agent("reviewer")


@writer.skill(workspace=ALL)
async def shares(ctx: RunContext, audience: str) -> Any:
    await ctx.workspace.request_access(files=["src/**"], mode=READ, reason="")
    token = await ctx.workspace.delegate(audience=audience)
    return (await ctx.call("reviewer", "reviews", grant=token)).result


@reviewer.skill(workspace=ALL)
async def reviews(ctx: RunContext) -> list[str]:
    view = await ctx.workspace.view(await ctx.workspace.install_grant())
    return [each.path for each in await view.list()]


class Opened(MemoryWorkspaces):
    """Workspaces in memory, and which ones each attempt opened."""

    def __init__(self) -> None:
        super().__init__({"src/a": b"", "notes": b""})
        self.opened: list[tuple[str, str | None]] = []

    def open(self, scope: RunScope, identifier: str | None = None) -> WorkspaceStorage:
        self.opened.append((scope.run_id, identifier))
        return super().open(scope, identifier)


async def test_a_provider_opens_the_caller_s_workspace_for_the_called_attempt() -> None:
    provider = Opened()
    ctx = LocalRunContext(
        auth=NoAuth(),
        task_id="run",
        workspace=provider,
        session=LocalSession("chat"),
        a2a=InProcessA2AClient([writer, reviewer]),
    )
    await run_skill(shares, ctx, {"audience": "reviewer"})
    called = ("run.1", None), ("run.1", "session:chat")
    assert provider.opened == [("run", None), *called]


async def test_access_is_handed_over_in_a_test_without_a_fleet() -> None:
    def context() -> LocalRunContext[NoAuth]:
        return LocalRunContext(
            auth=NoAuth(),
            workspace={"src/a": b"", "notes": b""},
            session=LocalSession("chat"),
            a2a=InProcessA2AClient([writer, reviewer]),
        )

    assert await run_skill(shares, context(), {"audience": "reviewer"}) == ["src/a"]
    with refused("audience"):
        await run_skill(shares, context(), {"audience": "others"})


async def test_the_authoritys_clock_decides_when_access_ends(files: Files) -> None:
    client, grant = await files.handed_over(ttl_seconds=60)
    view = await client.view(grant)
    files.ahead = timedelta(seconds=90)
    assert await view.read("notes") == b"n"
    assert await client.view(grant)
    files.now += timedelta(seconds=61)
    with pytest.raises(GrantInvalid, match="expired"):
        await view.read("notes")
