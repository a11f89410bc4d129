"""Logs, traces and metrics of a skillfleet process."""
