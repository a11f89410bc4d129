"""Workspaces in a local context: declared access, approvals, and what a resumed run finds."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.contracts import Wait, WaitKind
from skillfleet.errors import DeclarationError, WaitRejected, WorkspaceDenied
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode
from skillfleet.testing import run_skill
from skillfleet.workspaces.desk import KEPT
from skillfleet.workspaces.memory import MemoryWorkspaces

OVERLAY = WorkspaceMode.READ_WRITE_OVERLAY
ACCESS = WorkspaceAccess.dynamic(
    allowed_modes=(OVERLAY,), require_human_approval=True, deny_patterns=("**/.env",)
)
agent = Agent("editor")


@agent.skill(workspace=ACCESS)
async def append(ctx: RunContext, text: str, fails: bool = False) -> str:
    view = await ctx.workspace.open_view(
        purpose="tests", hints=["**/*.txt"], mode=OVERLAY, reason="to append"
    )
    if fails:
        await view.write("a.txt", text.encode())
        raise RuntimeError("the attempt ends here")
    staged = [patch.content for patch in await view.patches()]
    await view.commit()
    return f"{view.grant.grant_id} {staged}"


limited_agent = Agent("limited")


@limited_agent.skill(workspace=WorkspaceAccess.dynamic(require_human_approval=True, ttl_seconds=60))
async def limited(ctx: RunContext) -> bytes:
    grant = await ctx.workspace.request_access(
        files=["*.txt"], mode=WorkspaceMode.READ_ONLY, reason="to read"
    )
    data: bytes = await (await ctx.workspace.view(grant)).read("a.txt")
    return data


@agent.skill
async def undeclared(ctx: RunContext) -> None:
    await ctx.workspace.search(query="")


@agent.skill(workspace=WorkspaceAccess.none())
async def nothing(ctx: RunContext) -> None:
    await ctx.workspace.search(query="")


@pytest.mark.parametrize("skill", [undeclared, nothing])
async def test_a_skill_without_declared_access_is_denied(skill: object) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace={"a.txt": b"a"})
    with pytest.raises(WorkspaceDenied, match="declare"):
        await run_skill(skill, ctx, {})  # type: ignore[arg-type]


def test_the_card_shows_the_access() -> None:
    cards = {card.name: card.workspace for card in agent.card("celery").skills}
    assert cards == {"append": ACCESS, "undeclared": None, "nothing": None}


@pytest.mark.parametrize(
    "pattern", ["", "/.env", "./.env", "secrets/", "a//b", "../a", "a\\b", "cafe\u0301/**"]
)
def test_a_deny_pattern_that_would_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="deny_patterns must be relative globs"):
        WorkspaceAccess.dynamic(deny_patterns=(pattern,))


def test_another_value_is_no_declaration() -> None:
    with pytest.raises(DeclarationError, match="WorkspaceAccess"):

        @Agent("other").skill(workspace=True)  # type: ignore[call-overload, untyped-decorator]
        async def wrong(ctx: RunContext) -> None: ...


async def test_an_approval_is_a_wait_of_kind_grant_and_holds_for_a_later_attempt() -> None:
    asked: list[Wait] = []

    def approve(wait: Wait) -> bool:
        asked.append(wait)
        return True

    provider = MemoryWorkspaces({"a.txt": b"a"})
    question = "Allow read_write_overlay access to **/*.txt for tests? Reason: to append"
    first = LocalRunContext(auth=NoAuth(), workspace=provider, answers={question: approve})
    with pytest.raises(RuntimeError):
        await run_skill(append, first, {"text": "new", "fails": True})
    assert [(wait.kind, wait.question) for wait in asked] == [(WaitKind.GRANT, question)]

    second = LocalRunContext(auth=NoAuth(), workspace=provider, journal=first.journal)
    result = await run_skill(append, second, {"text": "new"})
    assert result.endswith("[b'new']")
    assert len(asked) == 1
    assert provider.storage("run:local-task").files.content == {"a.txt": b"new"}


async def test_an_approval_that_has_expired_is_asked_for_again_once() -> None:
    asked: list[str] = []

    def approve(wait: Wait) -> bool:
        asked.append(wait.question)
        return True

    first = "Allow read_only access to *.txt? Reason: to read"
    questions = [
        first,
        f"{first} The approval until 2026-01-01 00:00:00 UTC is over.",
        f"{first} The approval until 2026-01-02 00:00:00 UTC is over.",
    ]
    provider = MemoryWorkspaces({"a.txt": b"a"})
    journal = LocalRunContext(auth=NoAuth()).journal
    for number in range(1, 4):
        for _ in range(2):
            answers = dict.fromkeys(questions, approve)
            ctx = LocalRunContext(
                auth=NoAuth(), workspace=provider, journal=journal, answers=answers
            )
            await run_skill(limited, ctx, {})
            assert len(asked) == number
        state = provider.storage("run:local-task").state
        [info] = await state.list()
        kept = KEPT.validate_json(await state.read(info.path) or b"")
        ended = replace(kept.grant, expires_at=datetime(2026, 1, number, tzinfo=UTC))
        await state.write(info.path, KEPT.dump_json(replace(kept, grant=ended)))
    assert asked == questions


@pytest.mark.parametrize("answer", [False, WaitRejected("no")])
async def test_what_a_person_refuses_stays_closed(answer: object) -> None:
    question = "Allow read_write_overlay access to **/*.txt for tests? Reason: to append"
    ctx = LocalRunContext(auth=NoAuth(), workspace={"a.txt": b"a"}, answers={question: answer})
    with pytest.raises((WorkspaceDenied, WaitRejected)):
        await run_skill(append, ctx, {"text": "new"})


async def test_a_folder_is_used_in_place_and_its_state_stays_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"a")
    ctx = LocalRunContext(auth=NoAuth(), workspace=folder)
    view = await ctx.workspace.open_view(purpose="tests", hints=["*.txt"], mode=OVERLAY)
    await view.write("b.txt", b"b")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    await view.commit()
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]
    await ctx.aclose()
