"""What puts skillfleet on machines: image, compose file, plain manifests, and the scripts that make them."""
