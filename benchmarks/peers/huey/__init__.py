"""huey: its worker and its driver."""
