"""Conformance of contexts: questions, pauses and inbox messages."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, SecretStr

from skillfleet import AgentEvent, APIKeyAuth, RunContext, WaitRejected
from skillfleet.testing.conformance.run_context.table import (
    ANYTHING,
    Case,
    Notes,
    Reject,
    agent,
    code_of,
)

_BRIEF = 0.2


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("an even number, please")
    return value


class Order(BaseModel):
    item: str
    count: int = 1


@agent.skill
async def asks(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    name = await ctx.ask("Your name?")
    sure = await ctx.ask("Are you sure?", schema=bool, key="sure")
    order = await ctx.ask("What would you like?", schema=Order)
    even = await ctx.ask("An even number?", schema=Annotated[int, AfterValidator(_even)])
    return {"name": name, "sure": sure, "order": order.model_dump(), "even": even}


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def asks_once(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Ask in two attempts: the answer stays, and another question gets no old one."""
    notes = Notes(ctx)
    notes.add(await ctx.ask("Which colour?"))
    notes.add(await ctx.ask(f"Paint it, attempt {ctx.attempt}?", key="paint"))
    if ctx.attempt == 1:
        raise ConnectionError("after the answers")
    return notes.end()


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def asks_in_vain(ctx: RunContext[APIKeyAuth]) -> list[str]:
    notes = Notes(ctx)
    try:
        await ctx.ask("May I?", schema=bool)
    except WaitRejected as error:
        notes.add(f"{error.code}: {error.reason}")
    notes.add(await code_of(ctx.ask("Is anyone there?", timeout=_BRIEF)))
    if ctx.attempt == 1:
        raise ConnectionError("after the questions")
    return notes.end()


@agent.skill
async def rejected(ctx: RunContext[APIKeyAuth]) -> None:
    await ctx.ask("May I?", schema=bool)


@agent.skill(secrets=("conformance-token",))
async def refused_questions(ctx: RunContext[APIKeyAuth]) -> dict[str, str]:
    secret = ctx.secret("conformance-token")
    return {
        "empty": await code_of(ctx.ask(" ")),
        "secret": await code_of(ctx.ask(f"Is it {secret}?")),
        "no schema": await code_of(ctx.ask("Which?", schema=object())),
        "no time": await code_of(ctx.ask("When?", timeout=0)),
        "negative pause": await code_of(ctx.sleep(-1)),
    }


class Login(BaseModel):
    user: str
    password: SecretStr


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def asks_for_secrets(ctx: RunContext[APIKeyAuth]) -> dict[str, Any]:
    """Ask for secrets in two attempts, and try to write them."""
    password = (await ctx.ask("The password?", schema=SecretStr)).get_secret_value()
    login = await ctx.ask("The login?", schema=Login, key="login")
    if ctx.attempt == 1:
        raise ConnectionError(f"refused: {password}")
    said = {"password": password, "header": [f"Bearer {password}"]}
    await ctx.emit_event(AgentEvent("tried", said))
    return {
        "length": len(password),
        "said": password,
        "login": f"{login.user}:{login.password.get_secret_value()}",
        "step": await code_of(ctx.step("keep", lambda: password)),
        "question": await code_of(ctx.ask(f"Is it {password}?")),
    }


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def sleeps(ctx: RunContext[APIKeyAuth]) -> int:
    await ctx.sleep(0)
    await ctx.sleep(_BRIEF)
    await ctx.sleep(_BRIEF)
    if ctx.attempt == 1:
        raise ConnectionError("after the pause")
    return ctx.attempt


@agent.skill(max_retries=1, retry_on=(ConnectionError,))
async def receives(ctx: RunContext[APIKeyAuth]) -> list[str]:
    """Receive in two attempts: the second gets what the first has read, and what is left."""
    notes = Notes(ctx)
    for _ in range(2):
        message = await ctx.receive()
        notes.add(str(message["n"]))
    if ctx.attempt == 1:
        raise ConnectionError("after two messages")
    notes.add(str(await ctx.receive()))
    notes.add(await code_of(ctx.receive(timeout=_BRIEF)))
    return notes.end()


_DONE, _FAILED = "succeeded", "failed"
_TIMED_OUT = "wait_timed_out"

CASES: tuple[Case, ...] = (
    Case(
        "asks",
        answers={
            "Your name?": ("Ada",),
            "sure": (True,),
            "What would you like?": ({"item": "tea"},),
            "An even number?": (7, 8),
        },
        result={"name": "Ada", "sure": True, "order": {"item": "tea", "count": 1}, "even": 8},
        steps=(
            ("ask", "Your name?", _DONE),
            ("ask", "sure", _DONE),
            ("ask", "What would you like?", _DONE),
            ("ask", "An even number?", _DONE),
        ),
    ),
    Case(
        "asks_once",
        answers={"Which colour?": ("red", "blue"), "paint": ("yes", "no")},
        result=["red", "yes", "red", "no"],
        events=(("error", {"message": ANYTHING, "code": "journal_mismatch"}),),
    ),
    Case(
        "asks_in_vain",
        answers={"May I?": (Reject("not now"),)},
        result=["wait_rejected: not now", _TIMED_OUT, "wait_rejected: not now", _TIMED_OUT],
        steps=(("ask", "May I?", _FAILED), ("ask", "Is anyone there?", _FAILED)),
    ),
    Case("rejected", answers={"May I?": (Reject("no"),)}, code="wait_rejected"),
    Case(
        "refused_questions",
        result={
            "empty": "invalid_arguments",
            "secret": "invalid_arguments",
            "no schema": "bad_declaration",
            "no time": "invalid_arguments",
            "negative pause": "invalid_arguments",
        },
    ),
    Case(
        "asks_for_secrets",
        answers={
            "The password?": ("correct horse",),
            "login": ({"user": "ada", "password": "battery staple"},),
        },
        result={
            "length": 13,
            "said": "[secret]",
            "login": "ada:[secret]",
            "step": "invalid_result",
            "question": "invalid_arguments",
        },
        events=(("tried", {"password": "[secret]", "header": ["Bearer [secret]"]}),),
    ),
    Case("sleeps", result=2, steps=(("timer", "sleep", _DONE),) * 2),
    Case(
        "receives",
        inbox=({"n": 1}, {"n": 2}, "three"),
        result=["1", "2", "1", "2", "three", _TIMED_OUT],
        steps=(
            *(("message", "receive", _DONE),) * 3,
            ("message", "receive", _FAILED),
        ),
    ),
)
