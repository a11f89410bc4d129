"""A stand-in of a Kubernetes cluster with agent-sandbox: API server, controller and runtime.

It speaks the wire formats: Status objects, lists in pages, access reviews, the controller's
conditions; and the runtime's `/execute`, `/upload` and `/download`. Its sandboxes are folders and
processes of this machine, without any isolation: only for the tests' own commands.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.agent_sandbox import problem_of

TOKEN = "token-of-the-pod"
_MARK = "STAND_IN_SANDBOX"


@dataclass
class Pod:
    """A sandbox's pod: a folder, and the processes that carry its mark."""

    name: str
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="pod-")))

    @property
    def environment(self) -> dict[str, str]:
        """The variable that marks the processes of the pod."""
        return {_MARK: self.name}

    def execute(self, command: str) -> dict[str, Any]:
        """Do as the runtime: split the command, and execute it to its end."""
        with subprocess.Popen(
            shlex.split(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            env=os.environ | self.environment,
        ) as process:
            stdout, stderr = process.communicate(timeout=300)
        return {"stdout": stdout, "stderr": stderr, "exit_code": process.returncode}

    def processes(self) -> list[int]:
        """Return the processes of the pod."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"{_MARK}={self.name}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def commands(self) -> list[bytes]:
        """Return the command lines of the pod's processes."""
        found = []
        for process in self.processes():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{process}/cmdline").read_bytes())
        return found

    def end(self) -> None:
        """Kill the processes and delete the folder."""
        while found := self.processes():
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Answer:
    """An HTTP answer of JSON, or of bytes."""

    status: int
    content: Any

    @property
    def body(self) -> bytes:
        """The bytes on the wire."""
        return (
            self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        )


def refusal(status: int, reason: str, message: str) -> Answer:
    """Return a Status object, as the API server sends it."""
    return Answer(
        status,
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
         "reason": reason, "code": status},
    )  # fmt: skip


class Cluster:
    """The state of the stand-in; tests change what it does."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.pods: dict[str, Pod] = {}
        self.denied: set[tuple[str, str]] = set()
        """Verb and plural of the rights that the service account lacks."""
        self.installed = True
        self.looks_until_ready = 2
        self.condition: dict[str, str] | None = None
        """The condition that keeps sandboxes from getting ready."""
        self.faults: list[int] = []
        """The next answers: an HTTP status, or 0 for a connection that is cut."""
        self.runtime_answer: Callable[[str, bytes], bytes] | None = None
        """Changes what the runtime answers, as a sandbox's code can."""
        self.page = 500
        self.seen_runtime_headers: list[Message] = []
        self._lock = threading.Lock()

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer | None:
        """Answer a request; None cuts the connection."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path.startswith("/apis/"):
            with self._lock:
                if self.faults:
                    status = self.faults.pop(0)
                    return refusal(status, "Fault", "injected") if status else None
                return self._api(method, path, query, headers, body)
        self.seen_runtime_headers.append(headers)
        content = self._runtime(path, headers, body)
        if self.runtime_answer is not None and content.status == 200:
            content = Answer(200, self.runtime_answer(path, content.body))
        return content

    def _api(
        self, method: str, path: str, query: dict[str, list[str]], headers: Message, body: bytes
    ) -> Answer:
        if headers["Authorization"] != f"Bearer {TOKEN}":
            return refusal(401, "Unauthorized", "Unauthorized")
        _, _, group, _, *rest = path.split("/")
        if rest == ["selfsubjectaccessreviews"]:
            return self._review(json.loads(body))
        if not self.installed:
            return Answer(404, b"404 page not found\n")
        _, namespace, plural, *name = rest
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
        if (verb, plural) in self.denied:
            return refusal(403, "Forbidden", f"{plural}.{group} is forbidden: cannot {verb}")
        if verb == "create":
            return self._create(namespace, plural, json.loads(body))
        return self._named(verb, plural, name[0]) if name else self._list(plural, query)

    def _named(self, verb: str, plural: str, name: str) -> Answer:
        found = self.objects.get(f"{plural}/{name}")
        if found is None:
            return refusal(404, "NotFound", f'{plural} "{name}" not found')
        if verb == "delete":
            self._delete(f"{plural}/{name}")
            return Answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        self._reconcile(plural, found)
        return Answer(200, found)

    def _review(self, review: dict[str, Any]) -> Answer:
        wanted = review["spec"]["resourceAttributes"]
        allowed = (wanted["verb"], wanted["resource"]) not in self.denied
        return Answer(201, review | {"status": {"allowed": allowed}})

    def _create(self, namespace: str, plural: str, body: dict[str, Any]) -> Answer:
        problem = problem_of(body)
        if problem is not None:
            return refusal(422, "Invalid", problem)
        key = f"{plural}/{body['metadata']['name']}"
        if key in self.objects:
            return refusal(409, "AlreadyExists", f"{key} already exists")
        self.created.append(json.loads(json.dumps(body)))
        body["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4())}
        body["looks"] = 0
        self.objects[key] = body
        return Answer(201, body)

    def _list(self, plural: str, query: dict[str, list[str]]) -> Answer:
        wanted = dict(part.split("=") for part in query["labelSelector"][0].split(","))
        items = [
            each
            for key, each in sorted(self.objects.items())
            if key.startswith(f"{plural}/")
            and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        first = int(query.get("continue", ["0"])[0])
        rest = items[first : first + self.page]
        more = {"continue": str(first + self.page)} if len(items) > first + self.page else {}
        return Answer(200, {"kind": "List", "apiVersion": "v1", "metadata": more, "items": rest})

    def _reconcile(self, plural: str, found: dict[str, Any]) -> None:
        """Do as the controller: each look at an object brings it closer to Ready."""
        found["looks"] += 1
        if found["looks"] < self.looks_until_ready:
            return
        condition = self.condition or {"status": "True", "reason": "DependenciesReady"}
        conditions = [{"type": "Ready", "message": "", **condition}]
        if self.condition is not None:
            found["status"] = {"conditions": conditions}
            return
        own_name = found["metadata"]["name"]
        name = f"pool-{own_name[-8:]}" if plural == "sandboxclaims" else own_name
        self.pods.setdefault(name, Pod(name))
        status = {"podIPs": ["127.0.0.1"]}
        if plural == "sandboxclaims":
            status = {"sandbox": {"name": name, **status}}  # type: ignore[dict-item]
        found["status"] = {"conditions": conditions, **status}

    def _delete(self, key: str) -> None:
        found = self.objects.pop(key)
        status = found.get("status", {})
        name = status.get("sandbox", {}).get("name", found["metadata"]["name"])
        if name in self.pods:
            self.pods.pop(name).end()

    def _runtime(self, path: str, headers: Message, body: bytes) -> Answer:
        name = headers["X-Sandbox-ID"] or next(iter(self.pods), "")
        pod = self.pods.get(name)
        if pod is None:
            return Answer(502, {"detail": f"Could not connect to the backend sandbox: {name}"})
        if path == "/execute":
            return Answer(200, pod.execute(json.loads(body)["command"]))
        if path == "/upload":
            form = message_from_bytes(
                f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body
            )
            (part,) = (each for each in form.walk() if not each.is_multipart())
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            (pod.folder / str(part.get_filename())).write_bytes(content)
            return Answer(200, {"message": "uploaded"})
        file = pod.folder / unquote(path).removeprefix("/download/")
        if not file.is_file():
            return Answer(404, {"message": "File not found"})
        return Answer(200, file.read_bytes())

    def end(self) -> None:
        """End all pods."""
        for pod in list(self.pods.values()):
            pod.end()


@contextlib.contextmanager
def serving(cluster: Cluster) -> Iterator[int]:
    """Serve a cluster on a port of the loopback interface, which is returned."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer = cluster.answer(self.command, self.path, self.headers, body)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer.body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            cluster.end()
