"""Checkpoints of folders."""
