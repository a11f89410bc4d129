"""Mutations of the ledger's scripts: whatever is broken in them, a test notices."""
