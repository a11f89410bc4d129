"""Run a rendered pod's containers as processes of this machine: command, environment, volumes."""

import base64
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helm.rendering import Manifest, containers, kinds, pod_template
from tests.support.valkey import server_binary

Secrets = Mapping[str, Mapping[str, str]]
VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class LocalPod:
    """A pod's containers as local processes; its volumes are folders that vanish with it.

    `secrets` holds what the operator's Secrets and ConfigMaps would, by name and key; those of
    the chart are found by themselves. `addresses` says where on this machine a `host:port` of
    the cluster is. Processes that still run are killed when the block ends.
    """

    def __init__(
        self,
        workload: Manifest,
        manifests: list[Manifest],
        secrets: Secrets,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self.pod = pod_template(workload)["spec"]
        self.claims = workload["spec"].get("volumeClaimTemplates", [])
        self.containers = {c["name"]: c for c in containers(pod_template(workload))}
        self.config = {m["metadata"]["name"]: m["data"] for m in kinds(manifests, "ConfigMap")}
        self.secrets = {**made_secrets(manifests), **secrets}
        self.addresses = addresses or {}
        self.started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self.temporary = tempfile.TemporaryDirectory(prefix="skillfleet-pod-")
        self.folder = Path(self.temporary.name)
        for volume in self.pod["volumes"]:
            fill(self.folder / volume["name"], self.files(volume))
        for claim in self.claims:
            fill(self.folder / claim["metadata"]["name"], {})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        if error is not None:
            for log in self.folder.glob("*.log"):
                error.add_note(f"{log.name}: {log.read_text(errors='replace')[-4000:]}")
        self.temporary.cleanup()

    def initialise(self) -> Self:
        """Run the init containers, one after the other, each to its good end."""
        for container in self.pod.get("initContainers", []):
            process = self.start(container["name"])
            if process.wait(timeout=60) != 0:
                raise AssertionError(f"{container['name']} failed: {self.log(container['name'])}")
        return self

    def start(self, name: str | None = None, *more: str) -> subprocess.Popen[str]:
        """Start a container, by default the main one; `more` is added to its command."""
        container = self.containers[name or self.pod["containers"][0]["name"]]
        environment = self.environment(container)
        command = [expand(part, environment) for part in container["command"]]
        with (self.folder / f"{container['name']}.log").open("a") as log:
            process = subprocess.Popen(
                [*self.command(container, command), *more],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def execute(self, container: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, as an exec probe or `kubectl exec` does."""
        found = self.containers[container]
        return subprocess.run(
            self.command(found, command),
            env=self.environment(found),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def log(self, name: str | None = None) -> str:
        """Return the output so far of a container, by default the main one."""
        found = name or self.pod["containers"][0]["name"]
        return (self.folder / f"{found}.log").read_text(errors="replace")

    def command(self, container: Manifest, command: list[str]) -> list[str]:
        """A command with the paths of this machine."""
        program, *arguments = (self.localise(container, part) for part in command)
        return [local_program(program), *arguments]

    def environment(self, container: Manifest) -> dict[str, str]:
        """Return the environment that the kubelet would set; of this process only the PATH."""
        values = {"PATH": os.environ["PATH"], "HOME": "/tmp"}
        for source in container.get("envFrom", []):
            values |= self.config[source["configMapRef"]["name"]]
        for entry in container.get("env", []):
            values[entry["name"]] = expand(self.value(entry), values)
        return {name: self.localise(container, value) for name, value in values.items()}

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

    def files(self, volume: Manifest) -> dict[str, str]:
        """The files that the kubelet puts into a volume, by name."""
        match volume:
            case {"configMap": source}:
                main = self.containers[self.pod["containers"][0]["name"]]
                texts = chosen(
                    self.config.get(source["name"]) or self.secrets[source["name"]], source
                )
                return {file: self.localise(main, text) for file, text in texts.items()}
            case {"secret": source}:
                return chosen(self.secrets[source["secretName"]], source)
            case {"projected": {"sources": sources}}:
                parts = [next(iter(source.values())) for source in sources]
                return {k: v for p in parts for k, v in chosen(self.secrets[p["name"]], p).items()}
        return {}

    def localise(self, container: Manifest, text: str) -> str:
        """A text with the mount paths and addresses in it replaced by those of this machine."""
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        paths = "|".join(sorted(map(re.escape, mounts), reverse=True))
        text = re.sub(
            rf"(?<![\w/])({paths})(?=/|\s|$)",
            lambda found: str(self.folder / mounts[found[1]]),
            text,
        )
        for there, here in self.addresses.items():
            text = text.replace(there, here)
        return text


def made_secrets(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    """The Secrets that the chart itself makes, decoded."""
    return {
        m["metadata"]["name"]: {k: base64.b64decode(v).decode() for k, v in m["data"].items()}
        for m in kinds(manifests, "Secret")
    }


def chosen(data: Mapping[str, str], how: Mapping[str, Any]) -> dict[str, str]:
    """The files of a Secret or ConfigMap: those of `items`, or all."""
    items = how.get("items")
    if items is None:
        return dict(data)
    return {item["path"]: data[item["key"]] for item in items}


def fill(folder: Path, files: Mapping[str, str]) -> None:
    """Lay files out as the kubelet does: links to a folder that a link `..data` points to."""
    folder.mkdir()
    if not files:
        return
    (folder / "..2026").mkdir()
    (folder / "..data").symlink_to("..2026")
    for name, text in files.items():
        (folder / "..2026" / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")


def local_program(name: str) -> str:
    """Return the path of an image's program on this machine."""
    if name == "valkey-server":
        return server_binary()
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced as the kubelet does."""
    return VARIABLE.sub(lambda found: values.get(found[1], found[0]), text)
