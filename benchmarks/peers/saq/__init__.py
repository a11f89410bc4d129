"""saq: its worker and its driver."""
