"""The workspace of a local run context: files in memory, a folder, or a provider."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.workspaces.directory import OneDirectory
from skillfleet.workspaces.memory import MemoryWorkspaces

EVERYTHING: Final = WorkspaceAccess.dynamic(
    max_files=1_000_000, allowed_modes=tuple(WorkspaceMode), require_reason=False
)
"""The access of a skill that a test calls directly."""


def local_workspace(given: Any) -> Any:
    """Return the provider for a dict of files or the path of a folder; others as they are."""
    if isinstance(given, Mapping):
        return MemoryWorkspaces(given)
    if isinstance(given, str | Path):
        return OneDirectory(Path(given))
    return given
