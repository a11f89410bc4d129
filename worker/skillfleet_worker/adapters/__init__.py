"""The ports of the SDK on concrete technology: one folder a port, one file a technology."""
