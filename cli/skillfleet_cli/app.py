"""The command line: its verbs, its options for all of them, and how it reports errors.

`skillfleet --help` must be quick, so nothing here, and nothing at the top of a verb's module,
imports more than typer: each verb loads what it works with when it runs.
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
    dead,
    dev,
    doctor,
    enqueue,
    exporter,
    keys,
    runs,
    trace,
    worker,
)
from skillfleet_cli.exits import CommandError, ExitCode, explain

_RUNS, _WORKERS, _CARE = "Runs", "Workers", "Looking after a fleet"


class _Verbs(TyperGroup):
    """The verbs; Ctrl-C ends each of them with the exit code that shells expect."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Parse the options for all verbs."""
        with _printable_usage():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            with _printable_usage():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _printable_usage() -> Iterator[None]:
    """Make what typer says of wrong usage printable: it repeats what was given."""
    try:
        yield
    except Exception as error:
        # Of typer's own click or of the package, by its version.
        if hasattr(error, "format_message"):
            from skillfleet.printable import printable  # noqa: PLC0415 - only an error needs it

            error.message = printable(getattr(error, "message", None) or "")  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="skillfleet",
    cls=_Verbs,
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

    SKILLFLEET_REDIS_URL says where the fleet lives (default: redis://127.0.0.1:6379/0).
    """


_dead = typer.Typer(no_args_is_help=True)
app.add_typer(
    _dead, name="dead", rich_help_panel=_CARE, help="Runs that were given up, refused messages."
)

_keys = typer.Typer(no_args_is_help=True)
app.add_typer(_keys, name="keys", rich_help_panel=_CARE, help="Keys to sign runs with.")


def _register(
    verb: Callable[..., None], panel: str | None, parent: typer.Typer = app, **more: Any
) -> None:
    text = _flowing(verb.__doc__ or "")
    parent.command(verb.__name__.rstrip("_"), help=text, rich_help_panel=panel, **more)(verb)


def _flowing(text: str) -> str:
    """Let each paragraph flow to the terminal's width; indented lines, as examples, stay."""
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
_register(artifacts.artifacts, _RUNS)
_register(trace.trace, _RUNS)
_register(agents.agents, _CARE)
_register(doctor.doctor, _CARE)
_register(keys.token, _CARE)
_register(keys.new, None, _keys)
for _verb in (dead.list_, dead.show, dead.retry, dead.purge):
    _register(_verb, None, _dead)


def run() -> None:
    """Run the command line and exit with its code; raises what came of Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding cannot write is shown by its number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(_decoded(sys.argv[1:]))
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.exit(_report(error, debug="--debug" in sys.argv[1:]))


def _decoded(arguments: list[str]) -> list[str]:
    """The arguments read as UTF-8, whatever the locale says; raises CommandError."""
    decoded = []
    for argument in arguments:
        try:
            decoded.append(os.fsencode(argument).decode())
        except UnicodeError:
            raise CommandError(f"the argument {argument!r} is not UTF-8") from None
    return decoded


def _report(error: Exception, *, debug: bool) -> ExitCode:
    """Say what went wrong, in one line on stderr; returns the exit code."""
    from skillfleet.printable import printable, printable_line  # noqa: PLC0415 - as above

    if debug:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    message, code = explain(error)
    hint = ""
    if code is ExitCode.BUG and not debug:
        hint = "\n(unexpected: `skillfleet --debug ...` shows the traceback)"
    sys.stderr.write(f"skillfleet: {printable_line(message)}{hint}\n")
    return code
