"""Deployment: image, compose file, manifests, and the generators of files."""
