"""Technologies behind the ports of the SDK."""
