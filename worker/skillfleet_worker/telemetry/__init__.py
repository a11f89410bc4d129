"""What a worker tells of itself: traces, metrics, logs, and whether it is well.

hooks.py ties it all to Celery's signals; attempts.py is what the runtime calls.
"""
