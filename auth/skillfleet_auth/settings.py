"""The settings of token verification."""

from pathlib import Path

from skillfleet.ports.settings import AdapterSettings


class AuthSettings(AdapterSettings):
    """Public keys, read by workers."""

    auth_keys: Path | None = None
    """Public keys of producers: a folder of .pem and .jwk files, or a JWKS file."""
    auth_worker_keys: Path | None = None
    """Public keys of workers, which may only sign for the child runs of their own runs."""
