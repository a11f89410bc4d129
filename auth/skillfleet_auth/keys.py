"""Public keys, read by workers, read again when their files change."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK

from skillfleet.contracts import TOKEN_ALGORITHM
from skillfleet.errors import SettingsError

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 2.0
_SUFFIXES = (".pem", ".jwk", ".json")


class PublicKeys:
    """The Ed25519 keys of a folder (.pem, .jwk, .json) or of a JWKS file, by their ids.

    A PEM file's key has the file's name up to the first dot as its id. An added key is trusted
    at once, a removed one for a few seconds more. Raises SettingsError, naming `variable`, when
    there is no key at the start.
    """

    def __init__(self, path: Path, variable: str) -> None:
        self._path = path
        self._variable = variable
        self._stamp = self._read_stamp()
        self._keys = self._read()
        self._checked_at = time.monotonic()
        if not self._keys:
            raise SettingsError(f"{variable}: there is no public key in {path}")

    def get(self, key_id: str) -> Ed25519PublicKey | None:
        """Return the key of that id; None when it is not trusted."""
        stale = time.monotonic() - self._checked_at > _FRESH_SECONDS
        if stale or key_id not in self._keys:
            self._reload()
        return self._keys.get(key_id)

    def _reload(self) -> None:
        self._checked_at = time.monotonic()
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._keys = self._read()
        except SettingsError as error:
            logger.error("the former public keys stay in use: %s", error)  # noqa: TRY400

    def _read_stamp(self) -> list[tuple[str, int, int]]:
        """Differs when a file was added, removed or changed."""
        try:
            stats = [(path.name, path.stat()) for path in self._files()]
        except OSError as error:
            raise self._error(self._path, f"cannot be read: {error.strerror}") from None
        return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]

    def _read(self) -> dict[str, Ed25519PublicKey]:
        found: dict[str, Ed25519PublicKey] = {}
        try:
            for path in self._files():
                found |= self._keys_of(path)
        except OSError as error:
            raise self._error(self._path, f"cannot be read: {error.strerror}") from None
        return found

    def _files(self) -> Iterator[Path]:
        if not self._path.is_dir():
            yield self._path
            return
        for path in sorted(self._path.iterdir()):
            if path.suffix in _SUFFIXES and path.is_file():
                yield path

    def _keys_of(self, path: Path) -> dict[str, Ed25519PublicKey]:
        try:
            keys = dict(_parse(path.read_bytes(), path.name.partition(".")[0]))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the parsers raise
            raise self._error(
                path, f"does not contain a public key ({type(error).__name__})"
            ) from None
        for key in keys.values():
            if not isinstance(key, Ed25519PublicKey):
                raise self._error(path, "must contain public Ed25519 keys only, and no private key")
        return keys

    def _error(self, path: Path, why: str) -> SettingsError:
        return SettingsError(f"{self._variable}: {path} {why}")


def _parse(data: bytes, name: str) -> Iterator[tuple[str, Any]]:
    if not data.lstrip().startswith(b"{"):
        if b"PRIVATE KEY" in data:
            yield name, None
        else:
            yield name, load_pem_public_key(data)
        return
    value = orjson.loads(data)
    for fields in value.get("keys", [value]):
        key_id = fields.get("kid", None if "keys" in value else name)
        if not key_id:
            raise ValueError("a key of a set needs an id")
        yield str(key_id), PyJWK(fields, TOKEN_ALGORITHM).key
