"""Running skills without a fleet: contexts, calls between agents in this process, a runner."""
