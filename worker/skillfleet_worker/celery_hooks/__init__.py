"""What Celery's worker calls: strategy, requests, task, consumer, result backend."""
