"""The verb `worker`."""

# ruff: noqa: PLC0415 - a verb loads its work when it runs, so that --help is quick

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_REST = "skillfleet_cli.celery_arguments"


class Pool(StrEnum):
    """How a worker runs skills."""

    LOOP = "loop"
    PREFORK = "prefork"
    THREADS = "threads"


class LogLevel(StrEnum):
    """How much a worker says."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class WithCeleryArguments(TyperCommand):
    """A command that leaves what follows `--` to Celery."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Cut off what is Celery's, then parse as usual."""
        if "--" in args:
            cut = args.index("--")
            args, ctx.meta[_REST] = args[:cut], args[cut + 1 :]
        return super().parse_args(ctx, args)


def worker(
    ctx: typer.Context,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODULE...",
            help="Modules with agents, by name or by file; default: SKILLFLEET_MODULES.",
            show_default=False,
        ),
    ] = None,
    *,
    pool: Annotated[
        Pool, typer.Option(help="loop: async skills; prefork, threads: blocking ones.")
    ] = Pool.LOOP,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", min=1, help="Runs at once.", show_default="loop: 100, else CPUs"
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-Q",
            metavar="NAME",
            help="A queue to take runs from; may be repeated.",
            show_default="all queues of the agents, and the default one",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(case_sensitive=False, show_default="INFO")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Start without a banner.")] = False,
) -> None:
    """Start a worker that serves the agents of modules. A front on `celery worker`.

    What follows -- goes to Celery as it is. SIGTERM drains: running runs may finish for
    SKILLFLEET_DRAIN_SECONDS, the rest goes back to the queue.

    Examples:
      $ skillfleet worker my_agents --concurrency 200
      $ skillfleet worker agents/librarian.py --pool prefork -- --max-tasks-per-child 100
    """
    from skillfleet_cli.serving import Serving, serve

    serve(
        Serving(
            modules=tuple(modules or ()),
            pool=pool.value,
            concurrency=concurrency,
            queues=tuple(queue or ()),
            log_level=log_level.value if log_level is not None else None,
            quiet=quiet,
            celery_arguments=tuple(ctx.meta.get(_REST, ())),
        )
    )
