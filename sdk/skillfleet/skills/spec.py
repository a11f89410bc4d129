"""The declaration of a skill, and its checks."""

import inspect
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from skillfleet.contracts import MOST_SECONDS, SkillCard, WorkspaceAccess
from skillfleet.errors import DeclarationError
from skillfleet.jsonable import NotJsonError, to_json
from skillfleet.retry import RetryPolicy

_AGENT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_SKILL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST: Final = 1_000_000
BUILT_IN_AGENT: Final = "fleet"
"""The name of the agent whose skills every worker serves."""


@dataclass(frozen=True, slots=True)
class SkillSpec:
    """The declaration of a skill. `timeout` is in seconds; schemas are JSON Schema (2020-12).

    `max_deliveries` bounds how often a run is delivered to a worker, lost workers included;
    None leaves it to the fleet. A `durable` run may be parked while it waits. `workspace` limits
    what `ctx.workspace` opens; None: nothing. May gain fields: do not construct it yourself.
    """

    agent: str
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    secrets: tuple[str, ...] = ()
    max_deliveries: int | None = None
    durable: bool = False
    workspace: WorkspaceAccess | None = None
    input_schema: dict[str, Any] = field(default_factory=dict, hash=False)
    output_schema: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def task_name(self) -> str:
        """The name of the Celery task: `<agent>.<skill>`."""
        return f"{self.agent}.{self.name}"

    def card(self) -> SkillCard:
        """Return the card of the skill, as the agent publishes it."""
        return SkillCard(
            name=self.name,
            description=self.description,
            tags=self.tags,
            scopes=self.scopes,
            timeout_seconds=self.timeout,
            max_retries=self.retry.max_retries,
            durable=self.durable,
            workspace=self.workspace,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
        )


def check_agent_name(name: str, reserved: frozenset[str]) -> None:
    """Raise `DeclarationError` for a name that cannot begin a task name."""
    if not isinstance(name, str) or not _AGENT_NAME.fullmatch(name):
        raise DeclarationError(
            f"agent name {name!r} must start with a lower-case letter and hold at most 64 "
            "lower-case letters, digits, '-' or '_'"
        )
    if name in reserved:
        raise DeclarationError(f"agent name {name!r} is reserved: choose another")


def check_queue_name(agent: str, queue: str | None) -> None:
    """Raise `DeclarationError` unless `queue` is None or can name a queue."""
    if queue is not None and (not isinstance(queue, str) or not _QUEUE_NAME.fullmatch(queue)):
        raise DeclarationError(
            f"agent {agent!r}: queue {queue!r} must start with a letter or digit and hold at most "
            "128 letters, digits, '-', '_' or '.'"
        )


def check_skill_name(agent: str, name: str) -> None:
    """Raise `DeclarationError` for a name that cannot end a task name."""
    if not isinstance(name, str) or not _SKILL_NAME.fullmatch(name):
        raise DeclarationError(
            f"agent {agent!r}: skill name {name!r} must start with a letter and hold at most 64 "
            "letters, digits or '_': write @agent.skill(name='...')"
        )


def names(label: str, option: str, values: Sequence[str]) -> tuple[str, ...]:
    """Return `values` as a tuple, in order and without repetitions; raises `DeclarationError`."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    if not several or not all(isinstance(value, str) and value for value in values):
        raise DeclarationError(
            f"{label}: {option} must be a tuple of non-empty strings: write {option}=('...',)"
        )
    return tuple(dict.fromkeys(check_text(label, option, value) for value in values))


def check_text(label: str, option: str, value: str) -> str:
    """Return `value` as a plain string; raises `DeclarationError` if it is not a valid string."""
    if not isinstance(value, str):
        raise DeclarationError(f"{label}: {option} must be a string, got {type(value).__name__}")
    try:
        return str(to_json(value).plain)
    except NotJsonError as error:
        raise DeclarationError(
            f"{label}: {option} cannot be published: {error.why}: write text"
        ) from error


def check_timeout(label: str, timeout: float | None) -> float | None:
    """Return the timeout in seconds; raises `DeclarationError` unless it is above 0 and finite.

    More than ten years count as ten: `sys.maxsize` means no limit. Records hold whole
    milliseconds, in which 0 would mean no limit, too.
    """
    if timeout is None:
        return None
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < math.inf:
        raise DeclarationError(
            f"{label}: timeout={timeout!r} must be seconds above 0: write timeout=60, "
            "or None for no limit"
        )
    return float(max(min(timeout, MOST_SECONDS), 0.001))


def retry_policy(label: str, max_retries: int, retry_on: Sequence[type[Exception]]) -> RetryPolicy:
    """Return the policy; raises `DeclarationError` for a wrong number or exception type."""
    check_count(label, "max_retries", max_retries, least=0)
    types = (retry_on,) if inspect.isclass(retry_on) else tuple(retry_on)
    for kind in types:
        if not inspect.isclass(kind) or not issubclass(kind, Exception):
            raise DeclarationError(
                f"{label}: retry_on holds {kind!r}, which is no exception type: "
                "write retry_on=(ConnectionError,)"
            )
    if types and max_retries == 0:
        raise DeclarationError(f"{label}: retry_on has no effect: say max_retries=3 too")
    return RetryPolicy(max_retries=max_retries, on=types)


def check_flag(label: str, option: str, value: bool) -> bool:  # noqa: FBT001 - it is checked
    """Return a flag; raises `DeclarationError` for another value."""
    if not isinstance(value, bool):
        raise DeclarationError(f"{label}: {option}={value!r} must be True or False")
    return value


def check_access(label: str, access: WorkspaceAccess | None) -> WorkspaceAccess | None:
    """Return the access, None for access to nothing; raises `DeclarationError` for others."""
    if access is None:
        return None
    if not isinstance(access, WorkspaceAccess):
        raise DeclarationError(
            f"{label}: workspace={access!r} must be a WorkspaceAccess: write"
            " workspace=WorkspaceAccess.dynamic()"
        )
    return access if access.enabled else None


def check_count(label: str, option: str, value: int | None, *, least: int) -> None:
    """Raise `DeclarationError` unless `value` is None or a whole number of at least `least`."""
    if value is None and least > 0:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise DeclarationError(
            f"{label}: {option}={value!r} must be a whole number from {least} to {_MOST}"
        )
