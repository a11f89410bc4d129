"""Sandboxes in another machine: a supervisor inside, called by short commands."""
