"""arq: its worker and its driver."""
