"""Object stores: where large artifacts are kept."""
