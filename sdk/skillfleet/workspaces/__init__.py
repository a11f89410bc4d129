"""Workspaces: the rules of access, views, overlays and commits, over any file store."""
