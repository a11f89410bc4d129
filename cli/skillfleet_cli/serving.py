"""The worker in this process: Celery's own, told what to serve."""

import os
import traceback
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import typer

from skillfleet_cli.exits import CommandError, ExitCode


@dataclass(frozen=True)
class Serving:
    """What a worker is to serve, and how; None and () take the settings' defaults."""

    modules: tuple[str, ...]
    pool: str
    concurrency: int | None
    queues: tuple[str, ...]
    log_level: str | None
    quiet: bool
    celery_arguments: tuple[str, ...]


def serve(serving: Serving) -> None:
    """Run the worker until it is told to stop; in this process, so that signals reach it.

    Raises CommandError without the extra [worker] or without modules, DeclarationError for
    modules that cannot be served, SettingsError, and typer.Exit with Celery's exit code.
    """
    require_worker()
    # Only here: a machine that only enqueues does not have them.
    from skillfleet.errors import SkillfleetError  # noqa: PLC0415
    from skillfleet_worker import WorkerSettings, create_app  # noqa: PLC0415
    from skillfleet_worker.services.node import node_of  # noqa: PLC0415

    given = {"log_level": serving.log_level} if serving.log_level is not None else {}
    settings = WorkerSettings.load(**given)
    if not serving.modules and not settings.modules:
        raise CommandError("no MODULE: name the modules of your agents, or set SKILLFLEET_MODULES")
    try:
        app = create_app(
            *serving.modules, settings=settings, pool=serving.pool, concurrency=serving.concurrency
        )
    except SkillfleetError:
        raise
    except Exception as error:
        raise CommandError(f"the modules cannot be imported: {_located(error)}") from error
    queues = serving.queues or node_of(app).queues
    arguments = [
        *("--queues", ",".join(queues), "--loglevel", settings.log_level),
        # What workers would tell each other stands in the ledger; mingling costs a second.
        *("--without-gossip", "--without-mingle"),
    ]
    raise typer.Exit(_run_celery(app, [*arguments, *serving.celery_arguments], quiet=serving.quiet))


def require_worker() -> None:
    """Raise CommandError unless the runtime is installed."""
    if find_spec("skillfleet_worker") is None or find_spec("greenlet") is None:
        raise CommandError(
            "this needs the worker's runtime: pip install 'skillfleet[cli,worker]'",
            ExitCode.USAGE,
        )


def _run_celery(app: Any, arguments: list[str], *, quiet: bool) -> int:
    """Celery's own `celery worker`, and its exit code.

    The verb alone: the `celery` above it would load all other verbs and their plugins, 10 MiB
    (a shell among them) that then stay in the worker.
    """
    import click  # noqa: PLC0415 - typer may bring its own
    from celery.bin.base import CLIContext  # noqa: PLC0415 - not where no worker is installed
    from celery.bin.worker import worker  # noqa: PLC0415

    no_color = bool(os.environ.get("NO_COLOR"))  # noqa: TID251 - no setting, everybody's custom
    context = CLIContext(app=app, no_color=no_color, workdir=None, quiet=quiet)
    try:
        code = worker.main(
            args=arguments, prog_name="celery worker", standalone_mode=False, obj=context
        )
    except click.ClickException as error:
        raise CommandError(f"Celery's worker: {error.format_message()}") from error
    return code if isinstance(code, int) else ExitCode.OK


def _located(error: Exception) -> str:
    """An error with the place in the source that it comes from."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
