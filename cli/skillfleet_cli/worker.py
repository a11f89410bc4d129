"""Start of a worker in this process: Celery's own, configured with what to serve."""

import os
import traceback
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import typer

from skillfleet_cli.exits import CommandError, ExitCode


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker; None and () take the settings' defaults."""

    modules: tuple[str, ...]
    pool: str
    concurrency: int | None
    queues: tuple[str, ...]
    log_level: str | None
    quiet: bool
    celery_arguments: tuple[str, ...]


def run_worker(options: WorkerOptions) -> None:
    """Run the worker until it is stopped; in this process, so that signals reach it.

    Raises CommandError without the extra [worker] or without modules, DeclarationError for
    modules that cannot be served, SettingsError, and typer.Exit with Celery's exit code.
    """
    require_worker()
    # Imported here: a machine that only enqueues does not have them installed.
    from skillfleet.errors import SkillfleetError  # noqa: PLC0415
    from skillfleet_worker import WorkerSettings, create_app  # noqa: PLC0415
    from skillfleet_worker.services.node import node_of  # noqa: PLC0415

    given = {"log_level": options.log_level} if options.log_level is not None else {}
    settings = WorkerSettings.load(**given)
    if not options.modules and not settings.modules:
        raise CommandError("no MODULE: name the modules of your agents, or set SKILLFLEET_MODULES")
    try:
        app = create_app(
            *options.modules, settings=settings, pool=options.pool, concurrency=options.concurrency
        )
    except SkillfleetError:
        raise
    except Exception as error:
        raise CommandError(f"the modules cannot be imported: {_located(error)}") from error
    queues = options.queues or node_of(app).queues
    arguments = [
        *("--queues", ",".join(queues), "--loglevel", settings.log_level),
        # The ledger has what workers would exchange; mingling would cost a second.
        *("--without-gossip", "--without-mingle"),
    ]
    raise typer.Exit(_run_celery(app, [*arguments, *options.celery_arguments], quiet=options.quiet))


def require_worker() -> None:
    """Raise CommandError unless the extra [worker] is installed."""
    if find_spec("skillfleet_worker") is None or find_spec("greenlet") is None:
        raise CommandError(
            "this needs the worker's runtime: pip install 'skillfleet[cli,worker]'",
            ExitCode.USAGE,
        )


def _run_celery(app: Any, arguments: list[str], *, quiet: bool) -> int:
    """Run Celery's own `celery worker` and return its exit code.

    Only this command: the `celery` group would load all other commands and their plugins,
    10 MiB (a shell among them) that would stay in the worker.
    """
    import click  # noqa: PLC0415 - typer may bring its own
    from celery.bin.base import CLIContext  # noqa: PLC0415 - not where no worker is installed
    from celery.bin.worker import worker  # noqa: PLC0415

    no_color = bool(os.environ.get("NO_COLOR"))  # noqa: TID251 - a convention of terminals, not a setting
    context = CLIContext(app=app, no_color=no_color, workdir=None, quiet=quiet)
    try:
        code = worker.main(
            args=arguments, prog_name="celery worker", standalone_mode=False, obj=context
        )
    except click.ClickException as error:
        raise CommandError(f"Celery's worker: {error.format_message()}") from error
    return code if isinstance(code, int) else ExitCode.OK


def _located(error: Exception) -> str:
    """Format an error with its location in the source."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
