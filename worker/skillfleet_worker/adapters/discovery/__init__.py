"""Finding other agents."""
