"""dramatiq: its worker and its driver."""
