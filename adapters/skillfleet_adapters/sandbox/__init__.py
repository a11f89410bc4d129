"""Sandboxes on the worker's own machine."""
