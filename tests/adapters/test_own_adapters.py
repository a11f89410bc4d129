"""The adapters of skillfleet pass the published suites."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from skillfleet import Agent, RunContext, SkillError
from skillfleet.contracts import AgentCard
from skillfleet.ports.a2a import A2AProvider
from skillfleet.ports.admission import IncomingCall, IncomingInput, InputKind
from skillfleet.ports.discovery import DiscoveryClient, DiscoveryProvider
from skillfleet.ports.orchestrator import Orchestrator
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.scope import RunScope
from skillfleet.ports.secrets import Secrets
from skillfleet.testing import InProcessA2AClient
from skillfleet.testing.conformance import (
    A2ASuite,
    AdmissionSuite,
    DiscoverySuite,
    OrchestratorSuite,
    SecretsSuite,
)
from skillfleet.testing.conformance.admission import AdmissionCases
from skillfleet.testing.in_process import LocalDiscovery
from skillfleet_adapters.a2a import http
from skillfleet_adapters.discovery import ledger as ledger_discovery
from skillfleet_adapters.kubernetes.deletion_cost import DeletionCost, Pod
from skillfleet_adapters.secrets.chain import ChainedSecrets
from skillfleet_adapters.secrets.environment import EnvironmentSecrets
from skillfleet_adapters.secrets.files import FileSecrets
from skillfleet_auth import token_admission
from skillfleet_auth.open_admission import OpenAdmission
from skillfleet_ledger import Ledger, Settings
from tests.adapters.a2a.remote_agent import RemoteAgent
from tests.auth.keys import make_keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer


class TestFiles(SecretsSuite):
    def source(self, values: Mapping[str, str]) -> Secrets:
        folder = Path(tempfile.mkdtemp())
        for name, value in values.items():
            (folder / name).write_text(value + "\n")
        return FileSecrets(folder)

    def rotate(self, source: Secrets, name: str, value: str) -> None:
        assert isinstance(source, FileSecrets)
        (source._folder / name).write_text(value)


class TestEnvironment(SecretsSuite):
    def source(self, values: Mapping[str, str]) -> Secrets:
        variables = {f"S_{name.upper().replace('-', '_')}": value for name, value in values.items()}
        return EnvironmentSecrets(variables, "S_")


class TestChain(SecretsSuite):
    def source(self, values: Mapping[str, str]) -> Secrets:
        return ChainedSecrets({"none": EnvironmentSecrets({}, "X_"), "files": _files(values)})


def _files(values: Mapping[str, str]) -> Secrets:
    return TestFiles().source(values)


class TestLocalDiscovery(DiscoverySuite):
    several_versions = False

    @asynccontextmanager
    async def provider(self, cards: Sequence[AgentCard]) -> AsyncIterator[DiscoveryProvider]:
        yield _Fixed(LocalDiscovery(map(_agent, cards)))


class _Fixed(DiscoveryProvider):
    def __init__(self, client: DiscoveryClient) -> None:
        self._client = client

    def open(self, scope: RunScope) -> DiscoveryClient:
        del scope
        return self._client


def _agent(card: AgentCard) -> Agent:
    agent = Agent(card.name, description=card.description, version=card.version, tags=card.tags)

    async def handler(ctx: RunContext) -> None:
        """Do nothing."""

    for skill in card.skills:
        declare = agent.skill(name=skill.name, description=skill.description, tags=skill.tags)
        declare(handler)
    return agent


class TestLedgerDiscovery(DiscoverySuite):
    @pytest.fixture(autouse=True)
    def _server(self, valkey: ValkeyServer) -> None:
        self._url = valkey.url

    @asynccontextmanager
    async def provider(self, cards: Sequence[AgentCard]) -> AsyncIterator[DiscoveryProvider]:
        ledger = Ledger(Settings.load(redis_url=self._url))
        try:
            await ledger.directory.publish("worker", cards, 60_000)
            yield ledger_discovery.create(AdapterEnvironment(services={Ledger: ledger}))
        finally:
            await ledger.close()


reference = Agent("reference")


@reference.skill
async def add(ctx: RunContext, x: int, y: int) -> dict[str, int]:
    return {"sum": x + y}


@reference.skill
async def fail(ctx: RunContext) -> None:
    raise SkillError("it went wrong")


@reference.skill
async def wait(ctx: RunContext) -> None:
    await asyncio.sleep(120)


class TestInProcessCalls(A2ASuite):
    @asynccontextmanager
    async def provider(self) -> AsyncIterator[tuple[A2AProvider, str]]:
        yield InProcessA2AClient([reference], grace=0.05), "reference"


class TestHttpCalls(A2ASuite):
    @pytest.fixture(autouse=True)
    def _agent(self, tmp_path: Path) -> Iterator[None]:
        remote = RemoteAgent(tmp_path)
        self._url = remote.url
        yield
        remote.close()

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[tuple[A2AProvider, str]]:
        variables = {"SKILLFLEET_A2A_HOSTS": "127.0.0.1/32"}
        provider = http.create(AdapterEnvironment(variables=variables))
        assert provider is not None
        yield provider, self._url


class TestOpenAdmission(AdmissionSuite):
    @asynccontextmanager
    async def cases(self) -> AsyncIterator[AdmissionCases]:
        call = IncomingCall("r", "a.s", {}, {"sub": "ada"}, None, None, "r", 0, plain=False)
        given = IncomingInput("r", "1", InputKind.ANSWER, True, by="ada")
        yield AdmissionCases(OpenAdmission(), call, {"sub": "ada"}, given, "ada")


class TestTokenAdmission(AdmissionSuite):
    @pytest.fixture(autouse=True)
    def _keys(self, valkey: ValkeyServer, tmp_path: Path) -> None:
        self._url = valkey.url
        self._trusted = make_keys(tmp_path)

    @asynccontextmanager
    async def cases(self) -> AsyncIterator[AdmissionCases]:
        keys = self._trusted
        settings = keys.settings(self._url)
        factory = TokenFactory(self._url, keys)
        new = await factory.prepare("fleet.echo", {"text": "hi"})
        token = factory.token(new)
        call = IncomingCall(
            new.id, new.task, {"text": "hi"}, None, token, None, new.id, 0, plain=False
        )
        variables = {"SKILLFLEET_AUTH_KEYS": str(keys.producers)}
        services = {Settings: settings, Ledger: factory.fleet.ledger}
        admission = token_admission.create(
            AdapterEnvironment(variables=variables, services=services)
        )
        refused = {
            "no token": replace(call, token=None),
            "another run": replace(call, run_id="another"),
            "other arguments": replace(call, arguments={"text": "ho"}),
            "another skill": replace(call, task="fleet.shout"),
            "another signer": replace(call, token=factory.token(new, "untrusted")),
            "expired": replace(call, token=factory.token(new, exp=1)),
            "another position": replace(call, depth=3),
        }
        answer = IncomingInput(
            new.id, "1", InputKind.ANSWER, {"go": True}, by="bob", scopes=("files:read",)
        )
        signed = keys.signer(self._url).sign_input(answer, ADA)
        untrusted = keys.signer(self._url, "untrusted").sign_input(answer, ADA)
        given = replace(answer, token=signed)
        refused_inputs = {
            "no token": answer,
            "another run": replace(given, run_id="another"),
            "another wait": replace(given, wait_id="2"),
            "another value": replace(given, value={"go": False}),
            "another kind": replace(given, kind=InputKind.REJECTION),
            "another signer": replace(given, token=untrusted),
            "the token of a run": replace(given, token=token),
            "a missing scope": replace(given, scopes=("files:write",)),
        }
        try:
            yield AdmissionCases(admission, call, ADA, given, "ada", refused, refused_inputs)
        finally:
            await factory.fleet.close()


class TestDeletionCost(OrchestratorSuite):
    def orchestrator(self) -> Orchestrator:
        return self._pod(f"http://127.0.0.1:{self._api.server_port}")

    def unreachable(self) -> Orchestrator:
        return self._pod(f"http://127.0.0.1:{free_port()}")

    def _pod(self, url: str) -> Orchestrator:
        return DeletionCost(Pod(url, self._folder, "agents", "worker-1"), pause_seconds=0.05)

    @pytest.fixture(autouse=True)
    def _api_server(self, tmp_path: Path) -> Iterator[None]:
        (tmp_path / "token").write_text("sesame")
        self._folder = tmp_path
        self._api = ThreadingHTTPServer(("127.0.0.1", 0), _Accepts)
        thread = Thread(target=self._api.serve_forever)
        thread.start()
        yield
        self._api.shutdown()
        thread.join()
        self._api.server_close()


class _Accepts(BaseHTTPRequestHandler):
    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
