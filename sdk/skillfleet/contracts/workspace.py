"""Workspace access: what may be done with files that belong to a run."""

from enum import StrEnum


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
