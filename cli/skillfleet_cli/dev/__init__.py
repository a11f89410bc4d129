"""`skillfleet dev`: a whole fleet in one terminal that cleans up after itself."""
