"""Run a rendered container as a process of this machine: its command, environment and volumes."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helm.rendering import Manifest

Secrets = Mapping[str, Mapping[str, str]]
VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class PodProcess:
    """One container of a pod as a local process; its volumes are folders that vanish with it.

    `secrets` holds what the cluster's Secrets would, by name and key. The process is killed when
    the block ends, unless it has ended before.
    """

    def __init__(self, container: Manifest, manifests: list[Manifest], secrets: Secrets) -> None:
        self.container = container
        self.config = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "ConfigMap"}
        self.secrets = secrets
        self.folder = tempfile.TemporaryDirectory(prefix="skillfleet-pod-")
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        environment = self.environment()
        command = [self.localise(expand(part, environment)) for part in self.container["command"]]
        program = Path(sys.executable).parent / command[0]
        self.log = Path(self.folder.name) / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(program), *command[1:]],
                env=environment,
                cwd=self.folder.name,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.running.poll() is None:
            self.running.kill()
            self.running.wait()
        if error is not None:
            error.add_note(self.log.read_text()[-4000:])
        self.folder.cleanup()

    @property
    def running(self) -> subprocess.Popen[str]:
        """The process; only inside the block."""
        if self.process is None:
            raise RuntimeError("the container was not started")
        return self.process

    def environment(self) -> dict[str, str]:
        """What the kubelet would set, and nothing of this process but the way to programs."""
        values = {"PATH": os.environ["PATH"], "HOME": self.mounted("/tmp")}
        for source in self.container.get("envFrom", []):
            values |= self.config[source["configMapRef"]["name"]]["data"]
        for entry in self.container.get("env", []):
            values[entry["name"]] = expand(self.value(entry), values)
        return {name: self.localise(value) for name, value in values.items()}

    def value(self, entry: dict[str, Any]) -> str:
        """An environment entry's value, wherever it comes from."""
        match entry:
            case {"value": value}:
                return str(value)
            case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                return self.secrets[name][key]
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                return f"local-{path.rsplit('.', 1)[1]}"
        raise AssertionError(f"cannot resolve {entry}")

    def mounted(self, path: str) -> str:
        """The folder that stands for a mount path."""
        folder = Path(self.folder.name) / path.strip("/").replace("/", "-")
        folder.mkdir(exist_ok=True)
        return str(folder)

    def localise(self, text: str) -> str:
        """A text with the mount paths in it replaced."""
        for mount in self.container.get("volumeMounts", []):
            path = mount["mountPath"]
            text = re.sub(rf"(?<![\w/]){path}(?=/|$)", self.mounted(path), text)
        return text


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced as the kubelet does."""
    return VARIABLE.sub(lambda found: values.get(found[1], found[0]), text)
