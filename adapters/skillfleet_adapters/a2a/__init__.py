"""Calling agents outside the fleet."""
