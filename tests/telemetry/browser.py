"""A headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.support.debian import require_binary
from tests.support.waiting import wait_until, wait_until_async

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0", "--window-size=1500,850"),
)


class Page:
    """The only tab of a browser."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._number = 0

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a DevTools command and return its result; ignore events."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = await self._connection.read_message()
            assert answer is not None, "the browser is gone"
            reply: dict[str, Any] = json.loads(answer)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply["error"]
                found: dict[str, Any] = reply["result"]
                return found

    async def log_in(self, user: str, password: str) -> None:
        """Send these credentials with every request, by HTTP basic authentication."""
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        await self.command("Network.enable")
        headers = {"Authorization": f"Basic {token}"}
        await self.command("Network.setExtraHTTPHeaders", headers=headers)

    async def open(self, url: str) -> None:
        """Go to an address and wait until the page is loaded."""
        await self.command("Page.enable")
        await self.command("Page.navigate", url=url)
        await self.wait_for(
            f"document.readyState === 'complete' && location.href === {json.dumps(url)}"
        )

    async def read(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; None when it fails."""
        result = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def wait_for(self, expression: str, timeout: float = 20.0) -> None:
        """Return once a JavaScript expression is true."""
        await wait_until_async(lambda: self.read(expression), timeout, expression)

    async def click(self, selector: str) -> None:
        """Click on the element where a person would."""
        await self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null")
        await self.read(f"document.querySelector({json.dumps(selector)}).click()")

    async def text(self) -> str:
        """Return the text that the page shows."""
        return str(await self.read("document.body.innerText"))

    async def screenshot(self, file: Path) -> None:
        """Write a screenshot of the page as a PNG."""
        shot = await self.command("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))


@contextmanager
def chromium() -> Iterator[str]:
    """Start a Chromium and yield the address of its DevTools; skip the test without one."""
    program = require_binary("chromium", "chromium")
    folder = Path(tempfile.mkdtemp(prefix="skillfleet-chromium-"))
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        env=os.environ | {"HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), 60, "Chromium")
        port, path = port_file.read_text().split("\n")
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def tab(devtools: str) -> AsyncIterator[Page]:
    """Yield the tab of a browser that `chromium` started."""
    root = await _connect(devtools)
    targets = (await Page(root).command("Target.getTargets"))["targetInfos"]
    (target,) = [each["targetId"] for each in targets if each["type"] == "page"]
    connection = await _connect(f"{devtools.partition('/devtools/')[0]}/devtools/page/{target}")
    try:
        yield Page(connection)
    finally:
        await _close(connection)
        await _close(root)


async def _connect(url: str) -> WebSocketClientConnection:
    # Screenshots are larger than tornado's default limit.
    return await websocket_connect(url, connect_timeout=20, max_message_size=64 * 1024 * 1024)


async def _close(connection: WebSocketClientConnection) -> None:
    connection.close()
    while await connection.read_message() is not None:
        pass
