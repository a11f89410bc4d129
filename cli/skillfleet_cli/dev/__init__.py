"""`skillfleet dev`: a whole fleet in one terminal that leaves nothing behind."""
