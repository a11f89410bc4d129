"""Adapters for workspaces."""
