"""The public names of the SDK, and the cost of importing it."""

import inspect
import subprocess
import sys

import pytest

import skillfleet
from skillfleet import Agent, LocalRunContext, RunContext, errors
from skillfleet.errors import MissingScopes, RunError, SkillError, SkillfleetError


def test_the_public_names_are_these_and_no_others() -> None:
    assert skillfleet.__all__ == [
        "APIKeyAuth",
        "Agent",
        "AgentEvent",
        "ArtifactRef",
        "CallResult",
        "CancelledByCaller",
        "JWTAuth",
        "LocalRunContext",
        "MissingScopes",
        "NoAuth",
        "RetryPolicy",
        "RunContext",
        "SkillError",
        "SkillfleetError",
        "StepFailed",
        "StepKeyRequired",
        "WaitRejected",
        "WaitTimedOut",
        "joined_text",
    ]
    assert all(hasattr(skillfleet, name) for name in skillfleet.__all__)


def test_the_contexts_members_are_these_and_no_others() -> None:
    declared = set(RunContext.__annotations__) | set(vars(RunContext))
    assert {name for name in declared if not name.startswith("_")} == {
        "ask",
        "attempt",
        "auth",
        "call",
        "check_cancelled",
        "checkpoints",
        "deadline",
        "discover",
        "emit_artifact",
        "emit_error",
        "emit_event",
        "emit_progress",
        "model_call",
        "tool_call",
        "emit_text_delta",
        "limits",
        "receive",
        "require_scopes",
        "sandbox",
        "secret",
        "session",
        "shutting_down",
        "sleep",
        "step",
        "step_key",
        "task_id",
        "workspace",
        "write_artifact",
    }


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (
            Agent.__init__,
            [
                *("name", "description", "version", "tags", "auth_model", "queue"),
                "compatible_versions",
            ],
        ),
        (
            LocalRunContext.__init__,
            [
                *(
                    "auth",
                    "task_id",
                    "secrets",
                    "workspace",
                    "sandbox",
                    "a2a",
                    "discover",
                    "checkpoints",
                    "budget",
                ),
                *("answers", "inbox", "journal", "clock", "session"),
            ],
        ),
        (RunContext.call, ["target", "skill", "args", "grant", "timeout", "key", "budget"]),
        (
            RunContext.step,
            ["name", "function", "args", "key", "returns", "retry", "timeout", "kwargs"],
        ),
        (RunContext.ask, ["question", "schema", "timeout", "key", "scopes"]),
        (RunContext.sleep, ["seconds"]),
        (RunContext.receive, ["timeout"]),
        (RunContext.write_artifact, ["name", "data", "mime_type"]),
        (RunContext.emit_progress, ["message", "current", "total"]),
        (RunContext.emit_error, ["message", "code"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_parameters_keep_their_names(function: object, signature: list[str]) -> None:
    assert callable(function)
    assert list(inspect.signature(function).parameters)[1:] == signature


def test_importing_the_sdk_loads_neither_celery_nor_redis_nor_telemetry() -> None:
    script = (
        "import sys, pkgutil, importlib, skillfleet\n"
        "for module in pkgutil.walk_packages(skillfleet.__path__, 'skillfleet.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert "'skillfleet'" in loaded
    for heavy in ("celery", "kombu", "redis", "opentelemetry", "skillfleet_ledger"):
        assert f"'{heavy}'" not in loaded


ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, SkillfleetError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_says_what_it_is_and_carries_a_code(error: type[SkillfleetError]) -> None:
    assert error.__doc__
    assert isinstance(error.code, str)
    assert error.code.islower()
    assert isinstance(error.retryable, bool)


@pytest.mark.parametrize(
    "error", [error for error in ERRORS if error not in {MissingScopes, SkillError}]
)
def test_an_errors_message_is_what_it_was_given(error: type[SkillfleetError]) -> None:
    assert str(error("say 'please'")) == "say 'please'"


def test_missing_scopes_are_listed_in_order() -> None:
    error = MissingScopes(["b", "a"])
    assert error.missing == ("a", "b")
    assert str(error) == "missing scopes: a, b"


def test_a_skill_error_carries_its_policy() -> None:
    error = SkillError("busy", code="busy", retryable=True, retry_after=5)
    assert (str(error), error.code, error.retryable, error.retry_after) == ("busy", "busy", True, 5)
    assert (SkillError("x").code, SkillError("x").retryable) == ("skill_error", False)


def test_a_run_error_names_its_run() -> None:
    error = RunError("it failed", code="custom", run_id="a1")
    assert (error.message, error.code, error.run_id) == ("it failed", "custom", "a1")
