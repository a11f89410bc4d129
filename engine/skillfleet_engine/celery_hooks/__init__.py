"""What Celery selects by name: pool, consumer, task class."""
