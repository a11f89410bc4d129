"""Celery without skillfleet: `python -m examples.plain_celery_client [REDIS_URL]`.

A skill is a Celery task, and a run's id is its task id. Needs a fleet with examples.words.
"""

import sys

from celery import Celery


def main() -> None:
    """Send a skill by its name, wait for its result, and see that an argument is refused."""
    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/0"
    app = Celery(broker=url, backend=url)

    sent = app.send_task("words.count", kwargs={"text": "to be or not to be"})
    print(sent.get(timeout=30), sent.state)

    wrong = app.send_task("words.count", kwargs={"txt": "to be"})
    print(wrong.get(timeout=30, propagate=False), wrong.state)

    late = app.send_task("words.count", kwargs={"text": "never"}, countdown=60)
    late.revoke()
    print(late.id, "is revoked")


if __name__ == "__main__":
    main()
