"""The verb `exporter`."""

# ruff: noqa: PLC0415 - a verb loads its work when it runs, so that --help is quick

from typing import Annotated

import typer


def exporter(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9808,
) -> None:
    """Serve the fleet's demand over HTTP: for autoscalers and Prometheus.

    /demand?queue=a&queue=b is what KEDA asks; /queues and /queues/NAME say more, /metrics says
    it to Prometheus. Keeps no state: run as many as you like.

    Example:
      $ skillfleet exporter & curl -s 'localhost:9808/demand?queue=celery'
    """
    from skillfleet_cli.serving import require_worker

    require_worker()
    from skillfleet_cli.exporter import serve_demand

    serve_demand(host, port)
