"""The command `worker`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_REST = "skillfleet_cli.celery_arguments"


class Pool(StrEnum):
    """Pool that executes the skills."""

    LOOP = "loop"
    PREFORK = "prefork"
    THREADS = "threads"


class LogLevel(StrEnum):
    """Log level of a worker."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


_Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "-c",
        min=1,
        help="Number of concurrent runs.",
        show_default="loop: 100, else CPUs",
    ),
]
_Queues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        "-Q",
        metavar="NAME",
        help="Queue to consume; may be repeated.",
        show_default="all queues of the agents, and the default queue",
    ),
]


class WithCeleryArguments(TyperCommand):
    """A command that passes everything after `--` to Celery."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remove Celery's arguments, then parse the rest."""
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
        Pool, typer.Option(help="loop for async skills; prefork or threads for blocking ones.")
    ] = Pool.LOOP,
    concurrency: _Concurrency = None,
    queue: _Queues = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(case_sensitive=False, show_default="INFO")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Start without a banner.")] = False,
) -> None:
    """Start a worker that serves the agents of the modules; a front end to `celery worker`.

    Arguments after -- are passed to Celery unchanged. SIGTERM drains: running runs get
    SKILLFLEET_DRAIN_SECONDS to finish, the rest goes back to the queue.

    Examples:
      $ skillfleet worker my_agents --concurrency 200
      $ skillfleet worker agents/librarian.py --pool prefork -- --max-tasks-per-child 100
    """
    from skillfleet_cli.worker import WorkerOptions, run_worker

    run_worker(
        WorkerOptions(
            modules=tuple(modules or ()),
            pool=pool.value,
            concurrency=concurrency,
            queues=tuple(queue or ()),
            log_level=log_level.value if log_level is not None else None,
            quiet=quiet,
            celery_arguments=tuple(ctx.meta.get(_REST, ())),
        )
    )
