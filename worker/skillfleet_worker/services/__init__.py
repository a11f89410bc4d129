"""What a worker process does besides running attempts."""
