"""Every system under test: its worker and its driver, in a folder of its own."""
