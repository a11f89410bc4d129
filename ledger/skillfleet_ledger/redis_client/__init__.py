"""The connection to Redis: protocol, pipelining, pub/sub, scripts."""
