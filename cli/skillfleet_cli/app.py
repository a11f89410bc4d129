"""The command line: its commands, the options they share, and how it reports errors.

`skillfleet --help` must be quick, so nothing here, and nothing at the top of a command's module,
imports more than typer: each command loads what it works with when it runs.
"""

import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from skillfleet_cli.commands import (
    agents,
    artifacts,
    checkpoints,
    dead,
    dev,
    doctor,
    enqueue,
    exporter,
    grants,
    keys,
    runs,
    schedules,
    sessions,
    steps,
    trace,
    waits,
    worker,
    workspace,
)
from skillfleet_cli.exits import CommandError, ExitCode, explain

_RUNS, _WORKERS, _OPERATIONS = "Runs", "Workers", "Operations"


class _Commands(TyperGroup):
    """All commands; Ctrl-C ends each of them with the exit code that shells expect."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Parse the options that all commands share."""
        with _printable_usage():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            with _printable_usage():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _printable_usage() -> Iterator[None]:
    """Make typer's usage errors printable: they quote the user's input."""
    try:
        yield
    except Exception as error:
        # Depending on its version, typer raises errors of its own copy of click or of the package.
        if hasattr(error, "format_message"):
            from skillfleet.printable import printable  # noqa: PLC0415 - only an error needs it

            error.message = printable(getattr(error, "message", None) or "")  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="skillfleet",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value so
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only this option needs it

        typer.echo(f"skillfleet {version('skillfleet')}")
        raise typer.Exit


@app.callback()
def skillfleet(
    *,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, too.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Run the skills of AI agents on a fleet of Celery workers.

    SKILLFLEET_REDIS_URL is the address of the fleet's Redis (default: redis://127.0.0.1:6379/0).
    """


_checkpoints = typer.Typer(no_args_is_help=True)
app.add_typer(
    _checkpoints,
    name="checkpoints",
    rich_help_panel=_OPERATIONS,
    help="Stored snapshots of folders.",
)

_dead = typer.Typer(no_args_is_help=True)
app.add_typer(_dead, name="dead", rich_help_panel=_OPERATIONS, help="Dead runs and dead letters.")

_grants = typer.Typer(no_args_is_help=True)
app.add_typer(_grants, name="grants", rich_help_panel=_OPERATIONS, help="Grants of file access.")

_keys = typer.Typer(no_args_is_help=True)
app.add_typer(_keys, name="keys", rich_help_panel=_OPERATIONS, help="Keys that sign runs.")

_schedules = typer.Typer(no_args_is_help=True)
app.add_typer(
    _schedules,
    name="schedules",
    rich_help_panel=_RUNS,
    help="Skills that the fleet enqueues at certain times.",
)

_sessions = typer.Typer(no_args_is_help=True)
app.add_typer(_sessions, name="sessions", rich_help_panel=_RUNS, help="Sessions and their runs.")

_workspace = typer.Typer(no_args_is_help=True)
app.add_typer(
    _workspace, name="workspace", rich_help_panel=_RUNS, help="Files that a session's runs work on."
)


def _register(
    command: Callable[..., None], panel: str | None, parent: typer.Typer = app, **more: Any
) -> None:
    text = _joined_paragraphs(command.__doc__ or "")
    name = command.__name__.rstrip("_")
    parent.command(name, help=text, rich_help_panel=panel, **more)(command)


def _joined_paragraphs(text: str) -> str:
    """Join the lines of each paragraph, so that it wraps at the terminal's width.

    Paragraphs with indented lines, such as examples, are kept.
    """
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept = "\n " in paragraph
        paragraphs.append(paragraph if kept else paragraph.replace("\n", " "))
    return "\n\n".join(paragraphs)


_register(worker.worker, _WORKERS, cls=worker.WithCeleryArguments)
_register(dev.dev, _WORKERS)
_register(exporter.exporter, _WORKERS)
_register(enqueue.enqueue, _RUNS)
_register(runs.status, _RUNS)
_register(runs.events, _RUNS)
_register(runs.cancel, _RUNS)
_register(runs.runs, _RUNS)
_register(waits.waiting, _RUNS)
_register(waits.answer, _RUNS)
_register(waits.reject, _RUNS)
_register(waits.send, _RUNS)
_register(steps.steps, _RUNS)
_register(steps.fork, _RUNS)
_register(artifacts.artifacts, _RUNS)
_register(trace.trace, _RUNS)
_register(agents.agents, _OPERATIONS)
_register(doctor.doctor, _OPERATIONS)
_register(keys.token, _OPERATIONS)
_register(grants.revoke, None, _grants)
_register(keys.new, None, _keys)
_register(sessions.list_, None, _sessions)
_register(sessions.show, None, _sessions)
for _parent, _commands in (
    (_checkpoints, (checkpoints.list_, checkpoints.create, checkpoints.diff)),
    (_checkpoints, (checkpoints.restore, checkpoints.delete)),
    (_dead, (dead.list_, dead.show, dead.retry, dead.purge)),
    (_schedules, (schedules.list_, schedules.add, schedules.remove)),
    (_schedules, (schedules.pause, schedules.resume, schedules.run, schedules.next_)),
    (_workspace, (workspace.list_, workspace.put, workspace.get, workspace.delete)),
    (_workspace, (workspace.upload, workspace.download)),
):
    for _command in _commands:
        _register(_command, None, _parent)


def run() -> None:
    """Run the command line and exit with its code; re-raises an error caused by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks are shown as escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(_decoded(sys.argv[1:]))
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.exit(_report(error, debug="--debug" in sys.argv[1:]))


def _decoded(arguments: list[str]) -> list[str]:
    """Decode the arguments as UTF-8, whatever the locale is; raises CommandError."""
    decoded = []
    for argument in arguments:
        try:
            decoded.append(os.fsencode(argument).decode())
        except UnicodeError:
            raise CommandError(f"the argument {argument!r} is not UTF-8") from None
    return decoded


def _report(error: Exception, *, debug: bool) -> ExitCode:
    """Print the error as one line on stderr; returns the exit code."""
    from skillfleet.printable import printable, printable_line  # noqa: PLC0415 - as above

    if debug:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    message, code = explain(error)
    hint = ""
    if code is ExitCode.BUG and not debug:
        hint = "\n(unexpected: `skillfleet --debug ...` shows the traceback)"
    sys.stderr.write(f"skillfleet: {printable_line(message)}{hint}\n")
    return code
