"""The filtering proxy of one sandbox, on the worker's event loop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Final

import h11

from skillfleet_adapters.sandbox.egress.exchange import Peer, forward, wanted
from skillfleet_adapters.sandbox.egress.policy import EgressPolicy, Refused
from skillfleet_adapters.sandbox.egress.traffic import Allowance, Traffic
from skillfleet_adapters.sandbox.egress.tunnel import tunnel

logger = logging.getLogger(__name__)

_LOG_LINES: Final = 500
_PAUSE_SECONDS: Final = 0.2


class EgressProxy:
    """Serves listening sockets that the sandbox's supervisor made inside of the sandbox.

    A connection carries one request. The proxy lives as long as its sandbox, and its process is
    the worker: it ends with either.
    Concurrency: one event loop, but for `aclose`.
    """

    def __init__(self, policy: EgressPolicy, sandbox: str, run_id: str) -> None:
        self._policy = policy
        self._sandbox = sandbox
        self._run_id = run_id
        self._allowance = Allowance(policy.rules.max_bytes)
        self._room = asyncio.Semaphore(policy.rules.max_connections)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines = 0

    def start(self, listeners: Sequence[socket.socket]) -> None:
        """Serve the sockets, which are then the proxy's own."""
        for listener in listeners:
            listener.settimeout(0)
            self._keep(self._loop.create_task(self._accept(listener)), listener)

    async def aclose(self) -> None:
        """End all connections; also from another loop, when that of the proxy is blocked."""
        if asyncio.get_running_loop() is self._loop:
            tasks = list(self._tasks)
            self._stop()
            await asyncio.gather(*tasks, return_exceptions=True)
        else:
            with contextlib.suppress(RuntimeError):  # It is closed.
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _keep(self, task: "asyncio.Task[None]", listener: socket.socket | None = None) -> None:
        """Keep a task until it ends, and close its listener only then."""

        def end(_: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if listener is not None:
                listener.close()

        self._tasks.add(task)
        task.add_done_callback(end)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                logger.warning("egress of run %s: no connection: %s", self._run_id, error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            # One that exceeds the limit waits, and those after it in the kernel's queue.
            try:
                await self._room.acquire()
            except BaseException:
                connection.close()
                raise
            self._keep(self._loop.create_task(self._serve(connection)))

    async def _serve(self, connection: socket.socket) -> None:
        traffic, host, verdict = Traffic(self._allowance), "-", "ended with the sandbox"
        try:
            if connection.family == socket.AF_UNIX:
                streams = await asyncio.open_unix_connection(sock=connection)
            else:
                streams = await asyncio.open_connection(sock=connection)
            client = Peer.of(h11.SERVER, streams, traffic)
            try:
                async with asyncio.timeout(self._policy.rules.seconds):
                    request = await client.receive()
                    if not isinstance(request, h11.Request):
                        return
                    asked = wanted(request, self._policy)
                    host = asked.target.host
                    if asked.path is None:
                        await tunnel(client, asked, self._policy, traffic)
                    else:
                        await forward(client, request, asked, self._policy)
                verdict = "passed"
            except TimeoutError:
                verdict = "cut: it took too long"
            except h11.ProtocolError:
                verdict = "refused: it is not valid HTTP"
                await client.refuse(Refused(400, "the request is not valid HTTP"))
            except Refused as refusal:
                verdict = f"refused: {refusal.reason}"
                await client.refuse(refusal)
            finally:
                await client.close()
        except OSError:
            verdict = "cut: the connection broke"
        finally:
            self._room.release()
            self._log(host, verdict, traffic)

    def _log(self, host: str, verdict: str, traffic: Traffic) -> None:
        self._lines += 1
        if self._lines > _LOG_LINES:
            return
        logger.info(
            "egress of run %s, sandbox %s: host %s, %s, %d bytes sent, %d received%s",
            self._run_id,
            self._sandbox,
            host,
            verdict,
            traffic.sent,
            traffic.received,
            "; its further connections are not logged" if self._lines == _LOG_LINES else "",
        )
