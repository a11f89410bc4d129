"""A view of a workspace as the folder of a sandbox."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxRuntimeError, WorkspaceDenied
from skillfleet.ports.sandbox import SandboxHandle, SandboxSpec
from skillfleet.ports.workspace import WorkspaceMode, WorkspaceView
from tests.adapters.sandbox.conftest import provider_of

OVERLAY, DIRECT = WorkspaceMode.READ_WRITE_OVERLAY, WorkspaceMode.READ_WRITE_DIRECT
FILES = {"a.txt": b"a", "src/main.py": b"print(open('a.txt').read())", "src/old.py": b"", "b": b"b"}


@dataclass
class Opened:
    """A context with files, and a view of some of them in a sandbox."""

    ctx: LocalRunContext[NoAuth]
    view: WorkspaceView
    box: SandboxHandle

    async def changes(self) -> dict[str, tuple[str, bytes | None]]:
        return {patch.path: (patch.operation, patch.content) for patch in await self.view.patches()}


async def opened(
    ctx: LocalRunContext[NoAuth], mode: WorkspaceMode = OVERLAY, *hints: str
) -> Opened:
    view = await ctx.workspace.open_view(
        purpose="tests", hints=hints or ["a.txt", "src/**"], mode=mode, reason="tests"
    )
    name = f"box-{len(await ctx.sandbox.list())}"
    return Opened(ctx, view, await ctx.sandbox.create(SandboxSpec(name, workspace=view)))


@pytest.fixture
async def ctx(kind: str, folder: Path) -> AsyncIterator[LocalRunContext[NoAuth]]:
    provider: Any = provider_of(kind, folder)
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider, workspace=dict(FILES))
    yield ctx
    await ctx.aclose()


async def test_commands_see_the_view_and_their_changes_are_staged(
    ctx: LocalRunContext[NoAuth],
) -> None:
    got = await opened(ctx)
    assert (await got.box.shell("find . -type f | sort")).stdout.split() == [
        *("./a.txt", "./src/main.py", "./src/old.py"),
    ]
    assert (await got.box.exec("python3", ["src/main.py"])).stdout == "a\n"
    assert await got.changes() == {}
    await got.box.shell("echo more >> a.txt; rm src/old.py; mkdir src/new; echo n > src/new/n.py")
    await got.box.put("src/put.bin", bytes(range(256)))
    changes = {
        "a.txt": ("update", b"amore\n"),
        "src/old.py": ("delete", None),
        "src/new/n.py": ("create", b"n\n"),
        "src/put.bin": ("create", bytes(range(256))),
    }
    assert await got.changes() == changes
    await got.box.shell("printf a > a.txt")
    del changes["a.txt"]
    assert await got.changes() == changes

    # Another sandbox on the view, such as that of the next attempt, begins with what is staged.
    again = await ctx.sandbox.create(SandboxSpec("again", workspace=got.view))
    assert (await again.shell("find . -type f | sort")).stdout.split() == [
        *("./a.txt", "./src/main.py", "./src/new/n.py", "./src/put.bin"),
    ]
    assert await got.view.commit() == sorted(changes)
    whole = await ctx.workspace.open_view(purpose="tests", hints=["**"], reason="tests")
    assert await whole.read("src/new/n.py") == b"n\n"


async def test_changes_of_a_command_that_fails_or_is_late_are_staged_too(
    ctx: LocalRunContext[NoAuth],
) -> None:
    got = await opened(ctx)
    assert (await got.box.shell("echo 1 > a.txt; exit 3")).exit_code == 3
    assert await got.changes() == {"a.txt": ("update", b"1\n")}
    with pytest.raises(SandboxRuntimeError, match="took longer"):
        await got.box.shell("echo 2 > a.txt; sleep 600", timeout=1)
    await got.box.shell("true")
    assert await got.changes() == {"a.txt": ("update", b"2\n")}


@pytest.mark.parametrize(
    "trick",
    [
        "ln -s /etc/passwd src/link",
        "ln -s /etc src/link",
        "ln -s ../.. src/link",
        "ln -s ../b src/link",
        "mkfifo src/pipe",
        "mkdir -p src/empty",
    ],
)
async def test_overlay_link(ctx: LocalRunContext[NoAuth], trick: str) -> None:
    got = await opened(ctx)
    assert (await got.box.shell(trick)).ok
    assert await got.changes() == {}


async def test_overlay_replaced_by_link(
    ctx: LocalRunContext[NoAuth],
) -> None:
    got = await opened(ctx)
    await got.box.shell("ln -sf /etc/passwd a.txt; rm src/main.py; ln -s /usr src/main.py")
    assert await got.changes() == {"a.txt": ("delete", None), "src/main.py": ("delete", None)}


async def test_overlay_folder_replaced(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx)
    await got.box.shell("rm -r src; ln -s /usr/lib src")
    assert {operation for operation, _ in (await got.changes()).values()} == {"delete"}
    with pytest.raises(SandboxRuntimeError):
        await got.box.put("src/main.py", b"x")


async def test_overlay_hard_link(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx)
    await got.box.shell("ln a.txt src/hard; echo changed > src/hard")
    assert await got.changes() == {
        "a.txt": ("update", b"changed\n"),
        "src/hard": ("create", b"changed\n"),
    }
    assert not (await got.box.shell("ln /etc/passwd src/passwd")).ok


@pytest.mark.parametrize("name", ["b", "outside/x", "src/new\nline", "src/A.py", "src/a\u200b.py"])
async def test_overlay_refused_file(ctx: LocalRunContext[NoAuth], name: str) -> None:
    got = await opened(ctx)
    await got.box.shell("echo a > src/a.py")
    script = 'mkdir -p outside; echo stolen > "$0"; echo fine > a.txt'
    with pytest.raises(WorkspaceDenied, match="the view refuses 1 of the changed files"):
        await got.box.exec("sh", ["-c", script, name])
    changes = await got.changes()
    assert changes == {"a.txt": ("update", b"fine\n"), "src/a.py": ("create", b"a\n")}


async def test_names_that_are_no_text_are_refused(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx)
    with pytest.raises(WorkspaceDenied):
        await got.box.exec("python3", ["-c", "open(b'outside-\\xff', 'w')"])
    assert await got.changes() == {}


async def test_a_read_only_view_stays_as_it_is(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx, WorkspaceMode.READ_ONLY)
    assert (await got.box.shell("echo x > a.txt; cat a.txt")).stdout == "x\n"
    assert await got.view.read("a.txt") == b"a"


async def test_a_direct_view_is_changed_at_once(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx, DIRECT)
    await got.box.shell("echo x > a.txt; rm src/old.py")
    assert await got.view.read("a.txt") == b"x\n"
    with pytest.raises(FileNotFoundError):
        await got.view.read("src/old.py")


async def test_too_much_is_refused_as_a_whole(ctx: LocalRunContext[NoAuth]) -> None:
    got = await opened(ctx)
    with pytest.raises(SandboxRuntimeError, match="have more than"):
        await got.box.shell("head -c 70000000 /dev/zero > a.txt; rm src/old.py")
    assert await got.changes() == {}


async def test_code_cannot_replace_the_program_that_reads_the_files(
    ctx: LocalRunContext[NoAuth],
) -> None:
    got = await opened(ctx, OVERLAY, "**")
    await got.box.shell("echo 'raise SystemExit(1)' | tee hashlib.py stat.py sitecustomize.py")
    await got.box.shell("rm b")
    assert (await got.changes())["b"] == ("delete", None)
