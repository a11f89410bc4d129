"""Signing runs and verifying who calls."""
