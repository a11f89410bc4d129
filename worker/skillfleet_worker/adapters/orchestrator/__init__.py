"""What runs the worker's process, and what it may be told."""
