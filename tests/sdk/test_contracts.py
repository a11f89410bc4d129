"""The wire's contracts are frozen: what is written today is read tomorrow, and looks the same."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from skillfleet import Agent, RunContext
from skillfleet.contracts import (
    RESERVED_KINDS,
    TERMINAL_STATES,
    AgentCard,
    ArtifactInfo,
    Attempt,
    InvocationHeader,
    Limits,
    ReasonCode,
    RunEvent,
    RunState,
    RunStatus,
    from_millis,
)

GOLDEN = Path(__file__).parent / "golden"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

librarian = Agent("librarian", description="Knows what is in a folder", tags=("files",))


class Survey(BaseModel):
    files: int


@librarian.skill(tags=("read",), scopes=("files:read",), timeout=60, max_retries=2)
async def survey(ctx: RunContext, folder: str, top: int = 10) -> Survey:
    """Count the files of a folder."""
    return Survey(files=top)


EXAMPLES: dict[str, BaseModel] = {
    "agent_card": librarian.card("heavy"),
    "artifact_info": ArtifactInfo(
        name="report.md",
        mime_type="text/markdown",
        size_bytes=9,
        sha256="00" * 32,
        attempt=1,
        created_at=NOON,
    ),
    "invocation_header": InvocationHeader(
        deadline_ms=1767355200000, auth={"sub": "ada", "scopes": ["files:read"]}, depth=2
    ),
    "invocation_header_defaults": InvocationHeader(),
    "run_event": RunEvent(
        id="1767355200000-0", kind="progress", payload={"message": "hi"}, attempt=1, at=NOON
    ),
    "run_status": RunStatus(
        id="a1",
        agent="librarian",
        skill="survey",
        state=RunState.FAILED,
        queue="heavy",
        code=ReasonCode.SKILL_ERROR,
        message="no such folder",
        attempt=1,
        created_at=NOON,
        attempts=(Attempt(number=1, worker="w1", started_at=NOON, outcome="failed"),),
    ),
    "limits": Limits(),
}


def golden(name: str) -> Any:
    return orjson.loads((GOLDEN / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_contract_is_written_as_ever(name: str) -> None:
    assert orjson.loads(EXAMPLES[name].model_dump_json()) == golden(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_contract_that_was_written_is_still_read(name: str) -> None:
    assert type(EXAMPLES[name]).model_validate(golden(name)) == EXAMPLES[name]


def test_the_closed_sets_are_as_ever() -> None:
    assert golden("closed_sets") == {
        "states": {state.value: state.a2a for state in RunState},
        "terminal_states": sorted(TERMINAL_STATES),
        "reason_codes": [code.value for code in ReasonCode],
        "reserved_kinds": sorted(RESERVED_KINDS),
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_newer_writers_fields_are_ignored(name: str) -> None:
    read = type(EXAMPLES[name]).model_validate({**golden(name), "from_the_future": 1})
    assert read == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_contracts_are_values(name: str) -> None:
    example = EXAMPLES[name]
    field = next(iter(type(example).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(example, field, None)


def test_the_last_event_of_a_run_is_final() -> None:
    ended = RunEvent(id="2", kind="state", payload={"state": "failed"}, attempt=1, at=NOON)
    begun = RunEvent(id="1", kind="state", payload={"state": "running"}, attempt=1, at=NOON)
    progress = RunEvent(id="1", kind="progress", payload={"state": "failed"}, attempt=1, at=NOON)
    assert (ended.final, begun.final, progress.final) == (True, False, False)
    assert (ended.state, progress.state) == (RunState.FAILED, None)


def test_times_are_utc() -> None:
    assert from_millis(1767355200000) == NOON


def test_a_skill_is_found_on_its_agents_card() -> None:
    card = librarian.card("heavy")
    assert card.skill("survey") is card.skills[0]
    assert card.skill("fly") is None
    assert AgentCard(name="a", queue="q").skills == ()


def test_a_status_names_its_task() -> None:
    status = EXAMPLES["run_status"]
    assert isinstance(status, RunStatus)
    assert status.name == survey.spec.task_name
