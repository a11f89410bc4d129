"""Grants: access to files of a workspace that one run hands over to another.

A grant has a level for each delegation, and a path must be permitted by every one of them. So no
chain of delegations is wider than any of its links, without a proof about patterns.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from skillfleet.contracts.workspace import WorkspaceMode
from skillfleet.paths import matches, matches_in_any_case, path_fault

GRANT_TYPE: Final = "grant+jwt"
"""The `typ` in the header of a grant's token: a token of another type is no grant."""

GRANT_BYTES: Final = 4096
"""The longest token of a grant that is created or read."""

MOST_GRANT_SECONDS: Final = 86_400
"""The longest life of a grant."""

GRANT_SPARE_SECONDS: Final = 60
"""Notes about grants outlast these by so much, for clocks that differ."""

MOST_GRANT_DEPTH: Final = 8
"""The most delegations between a run's own access and a grant."""


FileOperation = Literal["read", "write", "delete"]
"""What is done to a file; listing and searching are reading."""


def _checked(path: str) -> str:
    if (fault := path_fault(path)) is not None:
        raise ValueError(f"a pattern or prefix of the grant {fault}")
    return path


Pattern = Annotated[str, AfterValidator(_checked)]


class GrantLevel(BaseModel):
    """The paths that one delegation permits.

    Without `outputs`, all paths that match one of `allow`. With it, these are only for reading,
    and files at or below the folder `outputs` may be read and changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[Pattern, ...] = ("**",)
    outputs: Pattern | None = None

    def permits(self, path: str, operation: FileOperation) -> bool:
        """Return whether the operation on a path is permitted."""
        if self.outputs is not None and f"{path}/".startswith(f"{self.outputs}/"):
            return True
        if self.outputs is not None and operation != "read":
            return False
        return any(matches(path, pattern) for pattern in self.allow)


class Grant(BaseModel):
    """The claims of a grant. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jti: str = Field(min_length=16, max_length=64)
    """The id, which is used once: the first run that installs the grant keeps it."""
    iss: str
    fleet: str
    aud: str = Field(min_length=1)
    """The name of the agent, or the id of the run, that may use it."""
    sub: str
    """The caller on whose behalf the files are used."""
    tenant: str | None = None
    workspace: str
    session: str | None = None
    """The session, as the ledger names it, whose runs may use it; None: runs of the tree only."""
    root: str
    """The run at the root of the tree whose runs may use it."""
    scope: str
    """The session, or the root of the tree, of the first delegation: it is revoked with that."""
    mode: WorkspaceMode
    levels: tuple[GrantLevel, ...] = Field(min_length=1, max_length=MOST_GRANT_DEPTH + 1)
    deny: tuple[Pattern, ...] = ()
    """Patterns of paths that no level permits, in any case of letters."""
    iat: int
    exp: int
    epoch: int = 0
    """The last revocation of all grants of the session or tree when this one was made."""
    lineage: tuple[str, ...] = Field(default=(), max_length=MOST_GRANT_DEPTH)
    """The ids of the grants that it narrows, the first one first."""

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if not 0 < self.exp - self.iat <= MOST_GRANT_SECONDS:
            raise ValueError(f"a grant lasts at most {MOST_GRANT_SECONDS} seconds")
        if len(self.levels) != self.depth + 1:
            raise ValueError("a grant has one level for each delegation")
        return self

    @property
    def depth(self) -> int:
        """The number of delegations; 0 for a run's own access."""
        return len(self.lineage)

    @property
    def parent(self) -> str | None:
        """The id of the grant that this one narrows."""
        return self.lineage[-1] if self.lineage else None

    def refusal(self, path: str, operation: FileOperation) -> str | None:
        """Return why an operation on a path is refused; None when it is allowed."""
        if (fault := path_fault(path)) is not None:
            return f"the path {fault}"
        if operation != "read" and self.mode is WorkspaceMode.READ_ONLY:
            return "the grant is for reading only"
        if matches_in_any_case(path, self.deny):
            return "the grant denies the path"
        if not all(level.permits(path, operation) for level in self.levels):
            return "the grant does not cover the path"
        return None

    def allows(self, path: str, operation: FileOperation = "read") -> bool:
        """Return whether the grant allows an operation on a path."""
        return self.refusal(path, operation) is None

    def narrowed(
        self,
        *,
        jti: str,
        audience: str,
        root: str,
        level: GrantLevel,
        deny: tuple[str, ...],
        mode: WorkspaceMode,
        now: int,
        seconds: int,
    ) -> "Grant":
        """Return a grant for `audience` that allows no more than this one, and lasts no longer.

        `root` is the root of the tree of the run that delegates.

        Raises ValueError for a mode that permits more, too many delegations, and bad patterns.
        """
        if not mode.within(self.mode):
            raise ValueError(f"the mode {mode} is wider than {self.mode}, which is held")
        if self.depth >= MOST_GRANT_DEPTH:
            raise ValueError(f"a grant is delegated at most {MOST_GRANT_DEPTH} times")
        changed = {
            "jti": jti,
            "aud": audience,
            "root": root,
            "mode": mode,
            "levels": (*self.levels, level),
            "deny": tuple(dict.fromkeys((*self.deny, *deny))),
            "iat": now,
            "exp": min(self.exp, now + seconds),
            "lineage": (*self.lineage, self.jti),
        }
        return Grant.model_validate(dict(self) | changed)
