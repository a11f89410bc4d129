"""Real S3 servers for tests: MinIO's gateway (juicefs), and moto; with one bucket each."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.ports import free_port
from tests.support.waiting import wait_until

BUCKET = "artifacts"
KEY_ID, SECRET = "skillfleet-tests", "skillfleet-tests-secret"


@dataclass(frozen=True)
class S3Server:
    """A running server. `url` is the value of SKILLFLEET_ARTIFACTS_URL."""

    name: str
    port: int
    url: str = f"s3://{BUCKET}/tests"

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def variables(self, endpoint: str | None = None) -> dict[str, str]:
        """The environment that a process needs for this server."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def minio() -> Iterator[S3Server]:
    """MinIO's gateway by juicefs, with its objects in files."""
    folder = Path(tempfile.mkdtemp(prefix="skillfleet-s3-"))
    program = Path(sys.prefix) / "bin" / "juicefs"
    meta, port = f"sqlite3://{folder}/meta.db", free_port()
    environment = os.environ | {"MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET}
    try:
        subprocess.run(
            [program, "format", "--storage=file", f"--bucket={folder}/data", meta, BUCKET],
            check=True,
            capture_output=True,
        )
        options = ["--no-banner", "--no-usage-report", "--keep-etag", f"--log={folder}/log"]
        command = [str(program), "gateway", *options, f"--cache-dir={folder}/cache"]
        with _serving("minio", port, [*command, meta, f"127.0.0.1:{port}"], environment) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def moto() -> Iterator[S3Server]:
    """The S3 of moto, in memory."""
    port = free_port()
    command = [f"{sys.prefix}/bin/moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving("moto", port, command, dict(os.environ)) as server:
        httpx.put(f"{server.endpoint}/{BUCKET}").raise_for_status()
        yield server


@contextmanager
def _serving(
    name: str, port: int, command: list[str], environment: dict[str, str]
) -> Iterator[S3Server]:
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            server = S3Server(name, port)
            wait_until(lambda: _answers(server), 60, f"{name} to answer")
            yield server
        finally:
            process.kill()


def _answers(server: S3Server) -> bool:
    try:
        httpx.get(server.endpoint, timeout=5)
    except httpx.TransportError:
        return False
    return True
