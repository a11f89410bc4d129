"""The command `exporter`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer


def exporter(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")
    ] = 9808,
) -> None:
    """Serve the fleet's demand over HTTP, for autoscalers and Prometheus.

    KEDA reads /demand?queue=a&queue=b; /queues and /queues/NAME have details, /metrics is for
    Prometheus. The exporter has no state: any number may run.

    Example:
      $ skillfleet exporter & curl -s 'localhost:9808/demand?queue=celery'
    """
    from skillfleet_cli.worker import require_worker

    require_worker()
    from skillfleet_cli.exporter import serve_demand

    serve_demand(host, port)
