"""The agent of trust that works from a queue of its own."""

from tests.auth.agents import far

__all__ = ["far"]
