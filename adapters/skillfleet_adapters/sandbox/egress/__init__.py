"""Egress of sandboxes: a filtering proxy in the worker, the only way out of a sandbox."""
