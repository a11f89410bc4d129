"""Calls to agents outside the fleet over A2A."""
