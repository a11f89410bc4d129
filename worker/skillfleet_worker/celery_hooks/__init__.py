"""Hooks that Celery's worker calls: strategy, requests, task, consumer, result backend."""
