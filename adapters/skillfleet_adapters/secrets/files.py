"""Secrets in files, one each, as Kubernetes mounts a Secret."""

from pathlib import Path

from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.secrets import Secrets
from skillfleet.ports.settings import AdapterSettings


class FileSecretsSettings(AdapterSettings):
    """Secrets from files, read by workers."""

    secrets_dir: Path | None = None
    """Folder of secrets, one file each, as Kubernetes mounts them."""


class FileSecrets(Secrets):
    """A source that reads `<folder>/<name>` at each call, so that rotated secrets apply at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str | None:
        """Return the file's text without a trailing newline; None when there is no such file."""
        if "/" in name or name.startswith("."):
            return None
        try:
            return (self._folder / name).read_text().removesuffix("\n")
        except (FileNotFoundError, IsADirectoryError):
            return None


def create(environment: AdapterEnvironment) -> Secrets | None:
    """Return the source of a folder; None when SKILLFLEET_SECRETS_DIR is not set."""
    folder = FileSecretsSettings.load(environment.variables).secrets_dir
    return FileSecrets(folder) if folder is not None else None
