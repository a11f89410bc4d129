"""Keys for the tests of trust: a producer's, a worker's, and an untrusted one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillfleet_auth.signing import TokenSigner, load_private_key, write_new_key
from skillfleet_producer import Settings


@dataclass(frozen=True)
class Keys:
    """Private keys by name, and the folders of public keys that workers trust."""

    folder: Path

    @property
    def producers(self) -> Path:
        return self.folder / "producers"

    @property
    def workers(self) -> Path:
        return self.folder / "workers"

    def private(self, name: str) -> Path:
        return self.folder / f"{name}.private.pem"

    def worker_settings(self) -> dict[str, Any]:
        return {
            "auth": "required",
            "auth_keys": self.producers,
            "auth_worker_keys": self.workers,
            "auth_signing_key_file": self.private("worker"),
        }

    def settings(self, url: str, name: str = "backend", **more: Any) -> Settings:
        return Settings.load(
            redis_url=url, auth="required", auth_signing_key_file=self.private(name), **more
        )

    def signer(self, url: str, name: str = "backend", **more: Any) -> TokenSigner:
        settings = self.settings(url, name, **more)
        return TokenSigner(*load_private_key(self.private(name)), settings)

    def trust(self, name: str, folder: Path) -> None:
        """Put a key's public half among those that workers trust."""
        public = self.folder / f"{name}.pem"
        (folder / public.name).write_bytes(public.read_bytes())


def make_keys(folder: Path) -> Keys:
    """A trusted key `backend`, a trusted key `worker` for calls, and an unknown `untrusted`."""
    keys = Keys(folder)
    for trusted in (keys.producers, keys.workers):
        trusted.mkdir()
    for name in ("backend", "worker", "untrusted"):
        write_new_key(folder, name)
    keys.trust("backend", keys.producers)
    keys.trust("worker", keys.workers)
    return keys
