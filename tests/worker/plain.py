"""Plain Celery: what a client without skillfleet does, as code for a process of its own."""

import json
import subprocess
import sys
from typing import Any

PRELUDE = """\
import json, sys
from celery import Celery, chain, group, chord, signature
from celery.exceptions import TaskRevokedError
app = Celery("plain", broker={url!r}, backend={url!r})
def report(value):
    print(json.dumps(value))
def outcome(result):
    try:
        value = result.get(timeout=30)
    except Exception as error:
        return [type(error).__name__, str(error), result.state]
    return ["value", value, result.state]
"""


def plain_celery(url: str, code: str) -> list[Any]:
    """Run code in a process that knows Celery alone; what it reported with `report`, in order.

    `report(value)` reports JSON, `outcome(async_result)` waits: kind, value or message, state.
    """
    guard = "import sys; sys.modules['skillfleet'] = None\n"
    program = guard + PRELUDE.format(url=url) + code
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
