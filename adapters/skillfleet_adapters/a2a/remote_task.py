"""A remote task, assembled from the responses that its agent streams.

A response may echo the credential that the agent was called with. No skill declared that
secret, so texts are redacted here.
"""

import base64
from collections.abc import Sequence
from typing import Any

import orjson
from a2a.types import Artifact, Part, StreamResponse, TaskState, TaskStatus
from google.protobuf.json_format import MessageToDict

from skillfleet.contracts import ReasonCode
from skillfleet.errors import RunCancelled, RunFailed
from skillfleet.ports.a2a import CallResult
from skillfleet.semconv import INPUT_TOKENS, OUTPUT_TOKENS, token_counts
from skillfleet.types import AgentEvent, ArtifactRef
from skillfleet_telemetry.redaction import redact, redact_value

_RUNNING = {
    TaskState.TASK_STATE_UNSPECIFIED,
    TaskState.TASK_STATE_SUBMITTED,
    TaskState.TASK_STATE_WORKING,
}
_MOST_TOKENS = 10**12
_WAITING = {TaskState.TASK_STATE_INPUT_REQUIRED, TaskState.TASK_STATE_AUTH_REQUIRED}


class RemoteTask:
    """A remote task, built from its responses in order; `result` returns its end."""

    def __init__(self, target: str) -> None:
        self.id = ""
        self._target = target
        self._status = TaskStatus()
        self._answer: list[Part] | None = None
        self._artifacts: dict[str, Artifact] = {}
        self._events: list[AgentEvent] = []
        self.tokens = 0
        """The tokens that the agent reports for this task so far, input and output together."""

    @property
    def running(self) -> bool:
        """True when there is a task that may be cancelled."""
        return bool(self.id) and self._status.state in _RUNNING | _WAITING

    def take(self, response: StreamResponse) -> None:
        """Take one response."""
        self._take_usage(response)
        match response.WhichOneof("payload"):
            case "task":
                self.id = response.task.id
                self._take_status(response.task.status)
                for artifact in response.task.artifacts:
                    self._artifacts[artifact.artifact_id] = artifact
            case "message":
                self._answer = list(response.message.parts)
            case "status_update":
                self.id = response.status_update.task_id or self.id
                self._take_status(response.status_update.status)
            case "artifact_update":
                self._take_artifact(response)

    def result(self) -> CallResult:
        """Return a completed task's result; raises RunFailed or RunCancelled for other ends."""
        state, final = self._status.state, list(self._status.message.parts)
        if self._answer is not None:
            return CallResult(_value(self._answer), tuple(self._events), self._references())
        if state == TaskState.TASK_STATE_COMPLETED:
            parts = final or [p for artifact in self._artifacts.values() for p in artifact.parts]
            return CallResult(_value(parts), tuple(self._events), self._references())
        message = _text(final) or f"the task of {self._target} ended {TaskState.Name(state)}"
        if state == TaskState.TASK_STATE_CANCELED:
            raise RunCancelled(message, run_id=self.id)
        code = redact_value(MessageToDict(self._status.message.metadata).get("code"))
        if state in _WAITING:
            code, message = "input_required", f"the agent waits for input: {message}"
        elif state in _RUNNING:
            code, message = "remote_error", "the answer ended before the task did"
        raise RunFailed(message, code=str(code or ReasonCode.SKILL_ERROR), run_id=self.id)

    def _take_usage(self, response: StreamResponse) -> None:
        """Read `usage` in the metadata, in any known spelling: A2A has no field for it."""
        payload = getattr(response, response.WhichOneof("payload") or "task")
        reports = [payload.metadata]
        if response.WhichOneof("payload") in ("task", "status_update"):
            reports.append(payload.status.message.metadata)
        for metadata in reports:
            counts = token_counts(MessageToDict(metadata).get("usage"))
            used = sum(max(counts.get(name, 0), 0) for name in (INPUT_TOKENS, OUTPUT_TOKENS))
            self.tokens = max(self.tokens, min(used, _MOST_TOKENS))

    def _take_status(self, status: TaskStatus) -> None:
        self._status = status
        if status.state == TaskState.TASK_STATE_WORKING and (text := _text(status.message.parts)):
            self._events.append(AgentEvent("progress", {"message": text}))

    def _take_artifact(self, response: StreamResponse) -> None:
        update = response.artifact_update
        known = self._artifacts.get(update.artifact.artifact_id)
        if update.append and known is not None:
            known.parts.extend(update.artifact.parts)
            return
        self._artifacts[update.artifact.artifact_id] = update.artifact

    def _references(self) -> tuple[ArtifactRef, ...]:
        return tuple(_reference(artifact) for artifact in self._artifacts.values())


def _reference(artifact: Artifact) -> ArtifactRef:
    """Return the artifact with its content in a data: URI, or its own URL where it only has one."""
    name = artifact.name or artifact.artifact_id
    urls = [part.url for part in artifact.parts if part.url]
    mime = next((part.media_type for part in artifact.parts if part.media_type), "")
    if urls:
        return ArtifactRef(name, urls[0], mime or "application/octet-stream", 0)
    kinds = {part.WhichOneof("content") for part in artifact.parts}
    defaults = {"text": "text/plain", "data": "application/json"}
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    mime = mime or defaults.get(str(kind), "application/octet-stream")
    content = b"".join(_bytes(part) for part in artifact.parts)
    uri = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return ArtifactRef(name, uri, mime, len(content))


def _bytes(part: Part) -> bytes:
    match part.WhichOneof("content"):
        case "raw":
            return bytes(part.raw)
        case "data":
            return orjson.dumps(MessageToDict(part.data))
    return part.text.encode()


def _value(parts: Sequence[Part]) -> Any:
    """Return the first data part's JSON value, else the joined texts, else None."""
    for part in parts:
        if part.WhichOneof("content") == "data":
            return redact_value(MessageToDict(part.data))
    return _text(parts) if parts else None


def _text(parts: Sequence[Part]) -> str:
    return redact("".join(part.text for part in parts if part.WhichOneof("content") == "text"))
