"""The chart, rendered by the real Helm engine and held to what a cluster would ask of it."""
