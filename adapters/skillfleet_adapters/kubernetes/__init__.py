"""Kubernetes as the orchestrator of workers."""
