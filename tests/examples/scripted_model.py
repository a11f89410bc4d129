"""A model behind an API like OpenAI's, which answers by a script and counts its requests."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Message = dict[str, Any]
Script = Callable[[list[Message]], Message]
"""Returns the model's next message of a conversation."""


class Request(NamedTuple):
    """A request that the server has answered."""

    messages: list[Message]
    key: str | None
    """Its idempotency key."""


class ModelServer:
    """The running server: its URL, and the requests it has answered."""

    def __init__(self, port: int, requests: list[Request]) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.requests = requests


@contextmanager
def running_model(script: Script) -> Iterator[ModelServer]:
    """Serve a model until the end of the block."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = body["messages"]
            requests.append(Request(messages, self.headers.get("Idempotency-Key")))
            usage = {"prompt_tokens": len(messages), "completion_tokens": 1}
            answer = {"choices": [{"message": script(messages)}], "usage": usage}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Write no line for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ModelServer(server.server_port, requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(text: str) -> Message:
    """Return a message that ends the model's turn."""
    return {"role": "assistant", "content": text}


def calls(number: int, tool: str, **arguments: Any) -> Message:
    """Return a message that calls a tool."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"id": f"call-{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
