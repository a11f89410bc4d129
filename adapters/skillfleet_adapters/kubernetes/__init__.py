"""Telling Kubernetes about a worker."""
