"""The adapters: technologies that implement the ports of the SDK."""
