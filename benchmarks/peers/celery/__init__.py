"""celery: its worker and its driver."""
