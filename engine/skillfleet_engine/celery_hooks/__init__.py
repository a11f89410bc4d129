"""Classes that Celery selects by name: pool, consumer, task class."""
