"""The services of a worker process besides running attempts."""
