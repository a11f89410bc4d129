"""An agent and its skills, declared rightly."""

import inspect
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.contracts import AgentCard
from skillfleet.errors import InvalidArgumentsError, InvalidResultError
from skillfleet.retry import RetryPolicy


class Opaque:
    """Nothing that JSON could hold."""

    def __repr__(self) -> str:
        return "OPAQUE"


class Stumbling(BaseModel):
    """A type whose own code fails."""

    @model_validator(mode="before")
    @classmethod
    def _fail(cls, value: Any) -> Any:
        raise LookupError("its own trouble")


OPAQUE = Opaque()
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]


class Depth(StrEnum):
    SHALLOW = "shallow"
    DEEP = "deep"


class Survey(BaseModel):
    files: int
    longest: Path | None = None


class Exact(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date


librarian = Agent(
    "librarian",
    description="Knows what is in a folder",
    version="1.2.0",
    tags=("files",),
    queue="heavy",
)


@librarian.skill
async def survey(
    ctx: RunContext,
    folder: str,
    top: int = 10,
    *,
    depth: Depth = Depth.SHALLOW,
    schema: tuple[Decimal, ...] = (),
) -> Survey:
    """Count the files of a folder.

    The second paragraph is not part of the description.
    """
    await ctx.emit_progress(folder)
    return Survey(files=top)


@librarian.skill(
    name="readFile",
    description="Read one file",
    tags=("files", "text"),
    scopes=("files:read",),
    timeout=30,
    max_retries=3,
    retry_on=(ConnectionError,),
    secrets=("token",),
    max_deliveries=5,
)
async def read_file(ctx: RunContext[NoAuth], exact: Exact) -> str:
    return str(exact.day)


@librarian.skill
async def nothing(ctx: RunContext) -> None: ...


def test_a_bare_skill_takes_its_words_from_the_function() -> None:
    assert survey.spec.task_name == "librarian.survey"
    assert survey.spec.description == "Count the files of a folder."
    assert survey.spec.timeout is None
    assert survey.spec.retry == RetryPolicy()


def test_a_skill_with_options_keeps_them() -> None:
    spec = read_file.spec
    assert spec.task_name == "librarian.readFile"
    assert (spec.description, spec.tags, spec.scopes) == (
        "Read one file",
        ("files", "text"),
        ("files:read",),
    )
    assert (spec.timeout, spec.secrets, spec.max_deliveries) == (30.0, ("token",), 5)
    assert spec.retry == RetryPolicy(max_retries=3, on=(ConnectionError,))


def test_a_spec_is_a_value() -> None:
    assert hash(survey.spec) == hash(survey.spec)
    assert survey.spec != read_file.spec
    with pytest.raises(AttributeError):
        survey.spec.timeout = 3  # type: ignore[misc]


def test_skills_are_listed_in_order_and_cannot_be_added_behind_the_agents_back() -> None:
    assert list(librarian.skills) == ["survey", "readFile", "nothing"]
    skills: Any = librarian.skills
    with pytest.raises(TypeError):
        skills["other"] = survey


def test_agents_know_nothing_of_each_other() -> None:
    assert Agent("librarian").skills == {}


async def test_a_skill_is_called_like_its_function() -> None:
    ctx = LocalRunContext(auth=NoAuth())
    assert await survey(ctx, "docs", depth=Depth.DEEP) == Survey(files=10)
    assert await survey(ctx, folder="docs", top=3) == Survey(files=3)
    assert [event.payload for event in ctx.events] == [{"message": "docs"}] * 2


def test_a_skill_looks_like_its_function() -> None:
    assert survey.__name__ == "survey"
    assert str(inspect.signature(survey)).startswith("(ctx: skillfleet.context.RunContext, folder")
    assert repr(survey) == "<Skill librarian.survey>"
    assert repr(librarian) == "<Agent librarian>"


def test_bound_arguments_have_the_handlers_types_and_leave_defaults_to_it() -> None:
    assert survey.bind({"folder": "x"}) == {"folder": "x"}
    bound = survey.bind({"folder": "x", "depth": "deep", "schema": ["1.50"], "top": 3})
    assert bound == {"folder": "x", "depth": Depth.DEEP, "schema": (Decimal("1.50"),), "top": 3}


def test_arguments_are_read_as_json_even_by_strict_models() -> None:
    assert read_file.bind({"exact": {"day": "2026-01-02"}}) == {
        "exact": Exact(day=date(2026, 1, 2))
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "invalid arguments for librarian.survey: folder: Field required"),
        ({"folder": 1, "top": "x"}, "folder: Input should be a valid string; top: Input should"),
        ({"folder": "x", "schema": ["a"]}, r"schema\.0: "),
        ({"folder": "x", "dept": 1}, r"dept: .* \(its arguments: folder, top, depth, schema\)"),
        ({"folder": "x", "top": 2**70}, "argument 'top' .* exceeds the range of 64 bits"),
        ({"folder": "\ud800"}, "argument 'folder' .* lone surrogate"),
        ({1: "x"}, "keys are text"),
        ("a string", "must be an object by name"),
        (None, "must be an object by name"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentsError, match=message):
        survey.bind(arguments)


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidArgumentsError) as caught:
        survey.bind({"folder": "x", "top": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_skill_without_arguments_takes_none() -> None:
    assert nothing.bind({}) == {}
    with pytest.raises(InvalidArgumentsError, match="its arguments: none"):
        nothing.bind({"a": 1})


def test_results_become_plain_json() -> None:
    assert survey.dump(Survey(files=1, longest=Path("a/b"))) == {"files": 1, "longest": "a/b"}
    assert nothing.dump(None) is None


@pytest.mark.parametrize(
    ("returns", "value", "message"),
    [
        (int, "many", "x.y returned str, .*valid integer"),
        (Survey, {"files": "many"}, "files: Input should be a valid integer"),
        (Survey, Survey.model_construct(files="many"), "Expected `int`"),
        (None, 3, "Input should be None"),
        (dict[str, int], {"a": "b"}, "a: Input should be a valid integer"),
        (bytes, b"\xff", "invalid utf-8"),
        (int, 2**70, "Integer exceeds 64-bit range"),
        (str, "\ud800", "surrogates not allowed"),
        (object, OPAQUE, "Unable to serialize unknown type"),
        (object, CIRCLE, "Circular reference"),
        (object, DEEP, "depth|[Rr]ecursion"),
        (Stumbling, {}, "its own trouble"),
    ],
    ids=lambda value: "nested" if isinstance(value, list) else str(value),
)
def test_a_result_that_does_not_fit_is_refused(returns: Any, value: Any, message: str) -> None:
    agent = Agent("x")

    async def y(ctx: RunContext) -> Any: ...

    y.__annotations__["return"] = returns
    with pytest.raises(InvalidResultError, match=message):
        agent.skill(y).dump(value)


def test_nan_becomes_null_as_json_has_none() -> None:
    agent = Agent("x")

    @agent.skill
    async def y(ctx: RunContext) -> list[float]: ...  # type: ignore[empty-body]

    assert y.dump([1.5, float("nan"), float("inf")]) == [1.5, None, None]


def test_the_output_schema_describes_what_is_sent() -> None:
    class Padded(BaseModel):
        value: Decimal = Decimal(0)

    agent = Agent("x")

    @agent.skill
    async def y(ctx: RunContext) -> Padded: ...  # type: ignore[empty-body]

    assert y.spec.output_schema["properties"]["value"]["type"] == "string"


def test_an_agents_card_can_be_read_back() -> None:
    card = librarian.card("heavy")
    assert AgentCard.model_validate_json(card.model_dump_json()) == card
    assert (card.name, card.version, card.queue, card.tags) == (
        "librarian",
        "1.2.0",
        "heavy",
        ("files",),
    )
    published = card.skill("readFile")
    assert published is not None
    assert (published.timeout_seconds, published.max_retries) == (30.0, 3)
    assert published.input_schema["additionalProperties"] is False
