"""Secrets in files, one each, as Kubernetes mounts a Secret."""

from pathlib import Path

from skillfleet.ports.secrets import Secrets


class FileSecrets(Secrets):
    """Reads `<folder>/<name>` at each call, so that a rotated secret is seen at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str | None:
        """The file's text without a trailing newline; None when there is no such file."""
        if "/" in name or name.startswith("."):
            return None
        try:
            return (self._folder / name).read_text().removesuffix("\n")
        except (FileNotFoundError, IsADirectoryError):
            return None
