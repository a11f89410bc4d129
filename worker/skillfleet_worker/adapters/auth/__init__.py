"""How a worker finds out who calls."""
