"""The agents of trust that work from Celery's own queue."""

from tests.auth.agents import tree

__all__ = ["tree"]
