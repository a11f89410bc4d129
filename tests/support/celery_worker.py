"""Starts a Celery worker: `python -m tests.support.celery_worker MODULE [options of the worker]`.

Celery's `worker` verb alone, as `skillfleet worker` starts it: `celery -A MODULE worker` would
load all other verbs and their plugins, Flower among them, at each of some hundred starts.
"""

import sys

from celery.app.utils import find_app
from celery.bin.base import CLIContext
from celery.bin.worker import worker

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    context = CLIContext(app=find_app(name), no_color=True, workdir=None)
    worker.main(args=options, prog_name="celery worker", obj=context)
