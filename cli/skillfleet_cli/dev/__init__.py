"""`skillfleet dev`: a whole fleet in one terminal, and nothing left of it afterwards."""
