"""Wrong declarations fail at import, with a message that says what to write."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from skillfleet import Agent, JWTAuth, LocalRunContext, NoAuth, RunContext
from skillfleet.agent import BuiltInAgent
from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import DeclarationError


class Opaque:
    """Nothing that JSON could hold."""


def not_async(ctx: RunContext) -> None: ...


async def yields(ctx: RunContext) -> Any:
    yield 1


async def no_arguments() -> None: ...


async def context_by_name(*, ctx: RunContext) -> None: ...


async def bare_context(ctx) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def no_context(folder: str) -> None: ...


async def local_context(ctx: LocalRunContext[NoAuth]) -> None: ...


async def other_caller(ctx: RunContext[JWTAuth]) -> None: ...


async def untyped(ctx: RunContext, folder) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def positional_only(ctx: RunContext, folder: str, /) -> None: ...


async def many(ctx: RunContext, *folders: str) -> None: ...


async def anything(ctx: RunContext, **options: str) -> None: ...


async def second_context(ctx: RunContext, context: str) -> None: ...


async def private(ctx: RunContext, _folder: str) -> None: ...


async def field_as_default(ctx: RunContext, top: int = Field(gt=0)) -> None: ...


async def no_return(ctx: RunContext):  # type: ignore[no-untyped-def]  # noqa: ANN201
    ...


async def opaque_argument(ctx: RunContext, folder: str, thing: Opaque) -> None: ...


async def function_argument(ctx: RunContext, key: Callable[[int], int]) -> None: ...


async def opaque_return(ctx: RunContext) -> Opaque: ...  # type: ignore[empty-body]


async def unresolved(ctx: RunContext, thing: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (not_async, "write 'async def'"),
        (yields, "emit_text_delta"),
        (no_arguments, r"write '\(ctx: RunContext, \.\.\.\)'"),
        (context_by_name, "needs the context first"),
        (bare_context, r"write '\(ctx: RunContext, \.\.\.\)'"),
        (no_context, "annotate it with RunContext"),
        (local_context, "annotate it with RunContext"),
        (other_caller, "auth_model=JWTAuth"),
        (untyped, "write 'folder: SomeType'"),
        (positional_only, "write 'folder: SomeType'"),
        (many, "write 'folders: SomeType'"),
        (anything, "write 'options: SomeType'"),
        (second_context, "'context' is reserved"),
        (private, "'_folder' is reserved"),
        (field_as_default, r"Annotated\[SomeType, Field"),
        (no_return, "or '-> None' for nothing"),
        (opaque_argument, "argument 'thing' cannot be described as JSON"),
        (function_argument, "argument 'key' cannot be described as JSON"),
        (opaque_return, "the return type cannot be described as JSON"),
        (unresolved, "Nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_handler_is_refused(handler: Any, message: str) -> None:
    agent = Agent("tools")
    with pytest.raises(DeclarationError, match=message) as caught:
        agent.skill(handler)
    assert "tools." in str(caught.value)
    assert agent.skills == {}


async def fine(ctx: RunContext) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "two words"}, "skill name 'two words'"),
        ({"name": ""}, "skill name ''"),
        ({"name": "_hidden"}, "skill name '_hidden'"),
        ({"name": "x" * 65}, "at most 64"),
        ({"timeout": 0}, "write timeout=60"),
        ({"timeout": -1}, "write timeout=60"),
        ({"timeout": float("inf")}, "write timeout=60"),
        ({"timeout": float("nan")}, "write timeout=60"),
        ({"timeout": "5s"}, "write timeout=60"),
        ({"timeout": True}, "write timeout=60"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_retries": 1.5}, "max_retries=1.5"),
        ({"max_retries": None}, "max_retries=None"),
        ({"max_deliveries": 0}, "max_deliveries=0"),
        ({"max_retries": 2**64}, "from 0 to 1000000"),
        ({"max_deliveries": 2**64}, "from 1 to 1000000"),
        ({"retry_on": (ValueError,)}, "say max_retries"),
        ({"max_retries": 1, "retry_on": ("ValueError",)}, "no exception type"),
        ({"max_retries": 1, "retry_on": (KeyboardInterrupt,)}, "no exception type"),
        ({"tags": "one"}, r"write tags=\('...',\)"),
        ({"scopes": ("",)}, "scopes must be"),
        ({"secrets": (1,)}, "secrets must be"),
        ({"timout": 3}, "got timout"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    agent = Agent("tools")
    with pytest.raises(DeclarationError, match=message):
        agent.skill(**options)(fine)
    assert agent.skills == {}


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(sys.maxsize, MOST_SECONDS), (1e300, MOST_SECONDS), (10**400, MOST_SECONDS), (1e-9, 0.001)],
)
def test_a_timeout_without_end_is_ten_years(timeout: float, seconds: float) -> None:
    assert Agent("tools").skill(timeout=timeout)(fine).spec.timeout == seconds


def test_a_name_without_keyword_is_refused() -> None:
    declare: Any = Agent("tools").skill
    with pytest.raises(DeclarationError, match=r"write @agent.skill\(name='...'\)"):
        declare("survey")


def test_two_skills_of_one_name_are_refused() -> None:
    agent = Agent("tools")
    agent.skill(fine)
    with pytest.raises(DeclarationError, match="has a skill 'fine' already"):
        agent.skill(fine)


@pytest.mark.parametrize("name", ["", "Tools", "1st", "a.b", "a b", "-a", "a" * 65, None, "a\n"])
def test_an_agent_name_that_cannot_begin_a_task_name_is_refused(name: Any) -> None:
    with pytest.raises(DeclarationError, match="must start with a lower-case letter"):
        Agent(name)


@pytest.mark.parametrize("name", ["celery", "fleet"])
def test_reserved_agent_names_are_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="reserved"):
        Agent(name)


def test_the_fleet_itself_may_use_its_name_but_not_celerys() -> None:
    assert BuiltInAgent("fleet").name == "fleet"
    with pytest.raises(DeclarationError, match="reserved"):
        BuiltInAgent("celery")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": "a queue"}, "queue 'a queue'"),
        ({"queue": ""}, "queue ''"),
        ({"auth_model": dict}, "pydantic model class"),
        ({"auth_model": NoAuth()}, "pydantic model class"),
        ({"version": ""}, "version must be"),
        ({"tags": "files"}, "tags must be"),
    ],
    ids=str,
)
def test_a_wrong_agent_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Agent("tools", **options)


async def test_the_context_may_be_positional_only() -> None:
    agent = Agent("tools")

    @agent.skill
    async def survey(ctx: RunContext, /, folder: str) -> str:
        return folder

    assert await survey(LocalRunContext(auth=NoAuth()), folder="x") == "x"


class Wide(BaseModel):
    scopes: tuple[str, ...] = ()


class Narrow(Wide):
    name: str = ""


def test_a_context_for_a_base_of_the_auth_model_is_accepted() -> None:
    agent = Agent("tools", auth_model=Narrow)

    @agent.skill
    async def survey(ctx: RunContext[Wide]) -> None: ...

    assert list(agent.skills) == ["survey"]


def test_repeated_words_count_once() -> None:
    agent = Agent("tools", tags=("a", "b", "a"))
    agent.skill(scopes=["x", "x"])(fine)
    assert agent.tags == ("a", "b")
    assert agent.skills["fine"].spec.scopes == ("x",)


def test_one_retry_type_needs_no_tuple() -> None:
    agent = Agent("tools")
    one: Any = ConnectionError
    agent.skill(max_retries=1, retry_on=one)(fine)
    assert agent.skills["fine"].spec.retry.on == (ConnectionError,)


def test_annotated_fields_keep_their_limits() -> None:
    agent = Agent("tools")

    @agent.skill
    async def survey(ctx: RunContext, top: Annotated[int, Field(gt=0, le=9)] = 3) -> None: ...

    assert survey.spec.input_schema["properties"]["top"] == {
        "type": "integer",
        "title": "Top",
        "exclusiveMinimum": 0,
        "maximum": 9,
        "default": 3,
    }
