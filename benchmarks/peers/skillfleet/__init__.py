"""skillfleet: its worker and its driver."""
