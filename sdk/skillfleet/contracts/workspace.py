"""Workspace access: what a skill may ask of the files that belong to its run."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from skillfleet.paths import path_fault

_MIB = 1024 * 1024


class WorkspaceMode(StrEnum):
    """The use of files that a grant allows. Each mode includes those before it."""

    READ_ONLY = "read_only"
    """Files are read."""
    READ_WRITE_OVERLAY = "read_write_overlay"
    """Changes are kept apart, as patches, until they are committed."""
    READ_WRITE_DIRECT = "read_write_direct"
    """Changes are made in the workspace itself."""

    def within(self, other: "WorkspaceMode") -> bool:
        """Return whether this mode permits no more than the other."""
        order = list(WorkspaceMode)
        return order.index(self) <= order.index(other)


class WorkspaceAccess(BaseModel):
    """The limits of a skill's access to its workspace; `none()` or `dynamic(...)` make one.

    `max_files` and `max_total_size_bytes` count the distinct files that an attempt reads or
    writes. `deny_patterns` are globs that no grant opens, in any case of their letters. With
    `require_human_approval` each grant is a question that a person answers; `ttl_seconds` ends
    a grant after that time.
    """

    model_config = ConfigDict(frozen=True)

    enabled: bool = True
    max_files: int = Field(25, ge=0, le=1_000_000)
    allowed_modes: tuple[WorkspaceMode, ...] = (WorkspaceMode.READ_ONLY,)
    require_reason: bool = True
    deny_patterns: tuple[str, ...] = ()
    require_human_approval: bool = False
    max_total_size_bytes: int = Field(100 * _MIB, ge=0)
    ttl_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.enabled and not self.allowed_modes:
            raise ValueError("allowed_modes must name a mode: write WorkspaceMode.READ_ONLY")
        for pattern in self.deny_patterns:
            # Another one would match no path, and so deny nothing.
            if (fault := path_fault(pattern)) is not None:
                raise ValueError(
                    f"deny_patterns must be relative globs such as '**/.env': {pattern!r} {fault}"
                )
        return self

    @classmethod
    def none(cls) -> Self:
        """Return access to nothing."""
        return cls(enabled=False, max_files=0, allowed_modes=(), max_total_size_bytes=0)

    @classmethod
    def dynamic(
        cls,
        *,
        max_files: int = 25,
        allowed_modes: tuple[WorkspaceMode, ...] = (WorkspaceMode.READ_ONLY,),
        require_reason: bool = True,
        deny_patterns: tuple[str, ...] = (),
        require_human_approval: bool = False,
        max_total_size_bytes: int = 100 * _MIB,
        ttl_seconds: float | None = None,
    ) -> Self:
        """Return access that the skill negotiates while it runs; raises ValueError."""
        return cls(
            max_files=max_files,
            allowed_modes=allowed_modes,
            require_reason=require_reason,
            deny_patterns=deny_patterns,
            require_human_approval=require_human_approval,
            max_total_size_bytes=max_total_size_bytes,
            ttl_seconds=ttl_seconds,
        )
