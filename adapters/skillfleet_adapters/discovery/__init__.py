"""Discovery of agents."""
