"""Durable runs: the rules of steps, waits and calls, on top of a runtime's `JournalStore`."""
