"""taskiq: its worker and its driver."""
