"""Runs in Redis: records, leases and every change of a run's state."""
