"""What puts skillfleet on machines: image, compose file, manifests, and what makes them."""
