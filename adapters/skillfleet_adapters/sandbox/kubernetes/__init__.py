"""Sandboxes as pods, by the controller agent-sandbox of kubernetes-sigs."""
