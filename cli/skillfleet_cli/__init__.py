"""The `skillfleet` command: start workers, enqueue and follow runs, look after a fleet."""
