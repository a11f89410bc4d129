"""The event loop that Celery's worker runs on."""
