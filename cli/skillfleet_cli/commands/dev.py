"""The command `dev`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from pathlib import Path
from typing import Annotated

import typer


def dev(
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE...", help="Modules with agents, by name or by file."),
    ],
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Flower's port.")] = 5555,
    flower: Annotated[bool, typer.Option(help="Also start Flower.")] = True,
    redis_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The embedded Valkey's port.")
    ] = 6379,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder of the server's data.",
            show_default="a temporary folder, deleted on exit",
        ),
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Also watch this folder for changes; may be repeated."),
    ] = None,
) -> None:
    """Run a whole fleet on this machine, for development.

    Starts a Valkey server, a worker that restarts when code changes, and Flower, all on the
    loopback interface; Ctrl-C stops them all. Authentication is off.

    Examples:
      $ skillfleet dev agents.py
      $ skillfleet dev my_agents --redis-port 6380 --data-dir .skillfleet
    """
    import asyncio

    from skillfleet_cli.dev.plan import Plan
    from skillfleet_cli.dev.session import Session
    from skillfleet_ledger import Settings

    plan = Plan(tuple(modules), redis_port, port if flower else None, data_dir, tuple(watch or ()))
    settings = Settings.load()
    plan.check()

    async def session() -> None:
        await Session(plan, settings).run()

    asyncio.run(session())
