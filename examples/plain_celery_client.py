"""Celery without skillfleet: `python -m examples.plain_celery_client [REDIS_URL]`.

A skill is a Celery task, and a run's id is its task id. Needs a fleet with examples.words.
"""

import sys

from celery import Celery


def main() -> None:
    """Send skills by their names: one succeeds, one is refused, one is revoked."""
    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/0"
    app = Celery(broker=url, backend=url)

    sent = app.send_task("words.count", kwargs={"text": "to be or not to be"})
    print(sent.get(timeout=30), sent.state)

    wrong = app.send_task("words.count", kwargs={"txt": "to be"})
    print(wrong.get(timeout=30, propagate=False), wrong.state)

    long = app.send_task("fleet.echo", kwargs={"seconds": 60})
    long.revoke()
    print(repr(long.get(timeout=30, propagate=False)), long.state)


if __name__ == "__main__":
    main()
