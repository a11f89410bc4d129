"""Running a complete coding agent as a part of a skill."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from skillfleet.ports.sandbox import ExecResult
from skillfleet.types import AgentEvent

OnEvent = Callable[[AgentEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where the harness sends its spans, and under which parent (W3C values)."""

    traceparent: str
    baggage: str = ""
    endpoint: str | None = None
    authorization: str | None = None
    capture_content: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """An earlier turn of the conversation; `role` is "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class HarnessRequest:
    """One turn: the instructions, the model as "provider/id", the prompt, what came before."""

    prompt: str
    model: str
    agents_md: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class HarnessResult:
    """The answer; `model` is the one that really answered, as "provider/id"."""

    output: str
    session_id: str
    model: str
    trace_id: str | None = None


class Runtime(ABC):
    """Where a harness' process runs.

    Concurrency: commands may run at once. Cancellation: cancelling the awaiting task ends the
    command with its whole process group before it propagates.
    """

    @abstractmethod
    async def start(self) -> None:
        """Make ready; harmless when it is."""

    @abstractmethod
    async def shutdown(self) -> None:
        """End every command and free everything; harmless when done before."""

    @abstractmethod
    async def exec(
        self,
        command: Sequence[str],
        input_bytes: bytes = b"",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command to its end; raises `TimeoutError` after it was killed."""


class Harness(ABC):
    """A coding agent that answers prompts.

    Concurrency: turns of different sessions may run at once. Cancellation: cancelling the
    awaiting task aborts the turn and its tools before it propagates. A failed model call
    raises `SkillError`; it is never an empty answer. Forbidden: choosing another model than
    the one asked for, and leaving processes behind.
    """

    @abstractmethod
    async def setup(self) -> None:
        """Make ready; harmless when it is."""

    @abstractmethod
    async def invoke(
        self, request: HarnessRequest, *, on_event: OnEvent | None = None
    ) -> HarnessResult:
        """Run one turn; `on_event` is awaited for each event, in order, before the return."""

    @abstractmethod
    async def shutdown(self) -> None:
        """Abort what runs and free everything; harmless when done before."""
