"""Exit codes and the mapping of errors to one line and one code (docs/cli.md)."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of `skillfleet`."""

    OK = 0
    FAILED = 1
    """The run failed, the check found a problem, or the command could not do its work."""
    USAGE = 2
    """Invalid input: an option, a setting, an id, a name, the arguments."""
    CANCELLED = 3
    TIMED_OUT = 4
    UNREACHABLE = 5
    """Redis (or the broker) cannot be reached or refuses the command."""
    BUG = 70
    INTERRUPTED = 130


class CommandError(Exception):
    """A failure of the command itself, such as a port in use; `code` is its exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


def explain(error: Exception) -> tuple[str, ExitCode]:
    """Return the error as one line, and the exit code.

    Any unexpected error is a BUG, with its type in the line.
    """
    if isinstance(error, CommandError):
        return str(error), error.code
    # Imported here: only a command that failed needs them, and they take a quarter of a second.
    from skillfleet import errors  # noqa: PLC0415
    from skillfleet_ledger.redis_client.connection import ReplyError  # noqa: PLC0415

    given = (
        errors.DeclarationError,
        errors.SettingsError,
        errors.UnknownSkillError,
        errors.UnknownRunError,
        errors.UnknownSessionError,
        errors.UnknownArtifactError,
        errors.UnknownCheckpointError,
        errors.InvalidArgumentsError,
        errors.IdempotencyConflictError,
        errors.UnknownScheduleError,
        errors.UnknownWaitError,
        errors.WaitConflictError,
        errors.RunEndedError,
        errors.MissingScopes,
        errors.WorkspaceDenied,
    )
    match error:
        case errors.FleetUnavailableError():
            # If a server answered, its answer says what is wrong.
            answered = isinstance(error.__cause__, ReplyError)
            hint = "" if answered else "; is it running, and is SKILLFLEET_REDIS_URL right?"
            return f"{error}{hint}", ExitCode.UNREACHABLE
        case errors.SkillfleetError():
            return str(error), ExitCode.USAGE if isinstance(error, given) else ExitCode.FAILED
        case ReplyError():
            return f"Redis refused: {error}", ExitCode.UNREACHABLE
        case UnicodeEncodeError():
            return f"{error.object!r} cannot be written as {error.encoding}", ExitCode.USAGE
        case _:
            return f"{type(error).__name__}: {error}", ExitCode.BUG
