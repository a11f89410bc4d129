"""A real RabbitMQ node for tests, with data and ports of its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.debian import require_binary
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_START_SECONDS = 90.0


class RabbitServer:
    """A node on loopback ports; `url` is its AMQP address.

    `consumer_timeout` is how many seconds a consumer may take to acknowledge.
    """

    def __init__(self, consumer_timeout: float | None = None) -> None:
        self.binary = require_binary("rabbitmq-server", "rabbitmq-server")
        self.port = free_port()
        self.names_port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="skillfleet-rabbit-"))
        self.process: subprocess.Popen[bytes] | None = None
        if consumer_timeout is not None:
            limits = f"{{consumer_timeout,{int(consumer_timeout * 1000)}}}"
            (self.folder / "advanced.config").write_text(
                f"[{{rabbit,[{limits},{{channel_tick_interval,500}}]}}].\n"
            )

    @property
    def url(self) -> str:
        """The broker's URL, as Celery takes it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> "RabbitServer":
        """Start the node and wait until it accepts connections."""
        config = self.folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        environment = os.environ | {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_BASE": str(self.folder),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_NODE_PORT": "",
            # Its schedulers would spin while they have nothing to do, beside all other tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": str(self.names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Else it refuses to end while it has not noticed yet that its node was killed.
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",
        }
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(self._program())],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._accepts, _START_SECONDS, "RabbitMQ to accept connections")
        return self

    def stop(self) -> None:
        """Kill the node; its data stays for a later `start`."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Kill the node with all its helpers and delete its data."""
        self.stop()
        # Erlang's name server, which the node started, survives it.
        if (names := shutil.which("epmd")) is not None:
            command = [names, "-port", str(self.names_port), "-kill"]
            subprocess.run(command, check=False, capture_output=True, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _program(self) -> Path:
        # Debian's /usr/sbin script changes to the rabbitmq user; the one it wraps does not.
        real = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        return real if real.exists() else self.binary

    def _accepts(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError((self.folder / "server.log").read_text(errors="replace"))
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
