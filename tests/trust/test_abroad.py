"""Calls of agents elsewhere over HTTP: what comes back, what stops them, what never leaves."""

import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace

from skillfleet.contracts import Budget, RunState
from skillfleet.errors import RunFailed, RunTimedOut, SettingsError, TargetRefusedError
from skillfleet_producer import Fleet
from skillfleet_worker.adapters.a2a.credentials import credentials_from
from skillfleet_worker.adapters.a2a.hosts import Hosts
from skillfleet_worker.adapters.a2a.transport import GuardedTransport
from skillfleet_worker.adapters.secrets.environment import EnvironmentSecrets
from tests.support import acl
from tests.support.fleet import ROOT, FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until


class Elsewhere:
    """A process with the agent, and its journal."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.journal = folder / "journal"
        self.journal.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.stranger", str(self.port), str(self.journal)],
            cwd=ROOT,
        )
        wait_until(self._answers, what="the agent elsewhere")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def noted(self, word: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [entry for entry in entries if entry["word"] == word]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/.well-known/agent-card.json", timeout=1):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    agent = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield agent
    agent.close()


@pytest.fixture(scope="module")
def harbour(elsewhere: Elsewhere) -> Iterator[ValkeyServer]:
    """A fleet that may call 127.0.0.1 (listed as an address) and the name `localhost`."""
    with (
        running_server() as server,
        FleetWorker(
            server,
            "tests.trust.agents",
            a2a_hosts="127.0.0.1/32, partner.test",
            a2a_credentials="127.0.0.1=partner-token",
            a2a_max_response_bytes=1_000_000,
            secret_partner_token="token-for-the-partner",
        ),
    ):
        yield server


@pytest.fixture
def fleet(harbour: ValkeyServer) -> Iterator[Fleet]:
    with Fleet(harbour.producer_url) as fleet:
        yield fleet


def asking(fleet: Fleet, target: str, skill: str, **args: Any) -> Any:
    run = fleet.enqueue("abroad.asks", {"target": target, "skill": skill, **args})
    return run.result(timeout=30)


def test_a_call_brings_back_value_events_and_artifacts(fleet: Fleet, elsewhere: Elsewhere) -> None:
    seen = asking(fleet, elsewhere.url, "add", args={"x": 2, "y": 3})
    assert seen["result"] == {"sum": 5}
    assert seen["events"] == [["progress", {"message": "on it"}]]
    ((name, uri, mime),) = seen["artifacts"]
    assert (name, mime) == ("report.md", "text/plain")
    assert base64.b64decode(uri.partition(",")[2]) == b"a report"


def test_the_trace_goes_along_and_no_credentials_do_without_tls(
    fleet: Fleet, elsewhere: Elsewhere
) -> None:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=flags)
    )
    with trace.use_span(span):
        asking(fleet, elsewhere.url, "add", args={"x": 20, "y": 30})
    asked = next(one for one in elsewhere.noted("asked") if one["args"] == {"x": 20, "y": 30})
    assert asked["headers"]["a2a-version"] == "1.0"
    assert asked["headers"]["traceparent"].startswith(f"00-{0xABC:032x}-")
    assert "authorization" not in asked["headers"]
    assert "cookie" not in asked["headers"]


def test_the_same_key_gives_the_same_message_id(fleet: Fleet, elsewhere: Elsewhere) -> None:
    before = len(elsewhere.noted("asked"))
    asking(fleet, elsewhere.url, "add", args={"x": 1, "y": 1}, key="k")
    asking(fleet, elsewhere.url, "add", args={"x": 1, "y": 1}, key="k")
    first, second = elsewhere.noted("asked")[before:]
    assert first["id"] != second["id"], "two runs share no message ids"


@pytest.mark.parametrize(
    ("skill", "code", "word"),
    [("fail", "skill_error", "it went wrong"), ("ask", "input_required", "which one?")],
)
def test_other_ends_of_the_task_are_errors_with_a_code(
    fleet: Fleet, elsewhere: Elsewhere, skill: str, code: str, word: str
) -> None:
    with pytest.raises(RunFailed, match=word.replace("?", r"\?")) as failed:
        asking(fleet, elsewhere.url, skill)
    assert failed.value.code == code


def test_our_cancel_cancels_the_task_elsewhere(fleet: Fleet, elsewhere: Elsewhere) -> None:
    before = len(elsewhere.noted("cancelled"))
    started = len(elsewhere.noted("asked"))
    run = fleet.enqueue("abroad.asks", {"target": elsewhere.url, "skill": "wait"})
    wait_until(lambda: len(elsewhere.noted("asked")) > started)
    run.cancel()
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")
    wait_until(lambda: run.status().state is RunState.CANCELLED)


def test_a_call_that_takes_too_long_is_ended_here_and_there(
    fleet: Fleet, elsewhere: Elsewhere
) -> None:
    before = len(elsewhere.noted("cancelled"))
    with pytest.raises(RunFailed) as over:
        asking(fleet, elsewhere.url, "wait", timeout=1)
    assert over.value.code == "deadline_exceeded"
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")


def test_a_call_elsewhere_counts_as_a_call_of_the_tree(fleet: Fleet, elsewhere: Elsewhere) -> None:
    args = {"target": elsewhere.url, "count": 3}
    assert fleet.enqueue("abroad.asks_often", args, budget=Budget(calls=3)).result(30) == 3
    before = len(elsewhere.noted("asked"))
    with pytest.raises(RunFailed, match="budget of calls") as refused:
        fleet.enqueue("abroad.asks_often", args, budget=Budget(calls=2)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(elsewhere.noted("asked")) == before + 2, "what is not paid for never leaves"


@pytest.mark.parametrize(("calls", "whole", "most"), [(1, 9, 1), (9, 3, 2)])
def test_a_called_runs_calls_elsewhere_count_for_all_above_it(
    fleet: Fleet, elsewhere: Elsewhere, calls: int, whole: int, most: int
) -> None:
    """One of the whole tree's calls is that of the run between."""
    before = len(elsewhere.noted("asked"))
    args = {"target": elsewhere.url, "count": 5, "calls": calls}
    with pytest.raises(RunFailed) as refused:
        fleet.enqueue("abroad.hands_down", args, budget=Budget(calls=whole)).result(timeout=30)
    assert refused.value.code == "budget_exhausted"
    assert len(elsewhere.noted("asked")) == before + most


THINKS = {"rounds": 50, "usage": {"input_tokens": 9, "output_tokens": 1}}


def test_tokens_that_an_agent_elsewhere_reports_are_charged_to_the_tree(
    fleet: Fleet, elsewhere: Elsewhere
) -> None:
    before = len(elsewhere.noted("cancelled"))
    args = {"target": elsewhere.url, "skill": "think", "args": THINKS}
    run = fleet.enqueue("abroad.asks", args, budget=Budget(tokens=30))
    with pytest.raises(RunFailed, match="budget of tokens") as stopped:
        run.result(timeout=30)
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")
    few = args | {"args": THINKS | {"rounds": 2}}
    answer = fleet.enqueue("abroad.asks", few, budget=Budget(tokens=30)).result(timeout=30)
    assert answer["result"] == "thought"


def test_a_call_elsewhere_is_stopped_at_its_own_budget_of_tokens(
    fleet: Fleet, elsewhere: Elsewhere
) -> None:
    before = len(elsewhere.noted("cancelled"))
    with pytest.raises(RunFailed, match="call's budget of tokens") as stopped:
        asking(fleet, elsewhere.url, "think", args=THINKS, budget={"tokens": 30})
    assert stopped.value.code == "budget_exhausted"
    wait_until(lambda: len(elsewhere.noted("cancelled")) > before, what="the task's cancel")


@pytest.mark.parametrize("usage", [{"input_tokens": -1000}, {"input_tokens": 1e300}])
def test_what_an_agent_elsewhere_reports_cannot_fill_a_budget_or_break_the_count(
    fleet: Fleet, elsewhere: Elsewhere, usage: dict[str, float]
) -> None:
    args = {"target": elsewhere.url, "skill": "think", "args": {"rounds": 1, "usage": usage}}
    assert fleet.enqueue("abroad.asks", args).result(timeout=30)["result"] == "thought"
    run = fleet.enqueue("abroad.asks", args, budget=Budget(tokens=10))
    if usage["input_tokens"] < 0:
        assert run.result(timeout=30)["result"] == "thought"
    else:
        with pytest.raises(RunFailed, match="budget of tokens"):
            run.result(timeout=30)


def test_a_budget_of_time_bounds_a_call_elsewhere_and_says_so(
    fleet: Fleet, elsewhere: Elsewhere
) -> None:
    with pytest.raises(RunFailed) as over:
        asking(fleet, elsewhere.url, "wait", budget={"seconds": 0.5})
    assert over.value.code == "budget_exhausted"
    args = {"target": elsewhere.url, "skill": "wait"}
    with pytest.raises(RunTimedOut) as tree:
        fleet.enqueue("abroad.asks", args, budget=Budget(seconds=0.5)).result(timeout=30)
    assert tree.value.code == "budget_exhausted"


def test_an_answer_that_is_too_large_is_cut_off(fleet: Fleet, elsewhere: Elsewhere) -> None:
    with pytest.raises(RunFailed, match="larger than 1000000 bytes"):
        asking(fleet, elsewhere.url, "large", args={"size": 2_000_000})
    with pytest.raises(RunFailed, match="larger than 1000000 bytes"):
        asking(fleet, f"{elsewhere.url}/endless", "add")


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("http://example.org", "'example.org' is not on the list"),
        ("http://127.0.0.2:9", "'127.0.0.2' is not on the list"),
        ("http://169.254.169.254/latest", "is not on the list"),
        ("http://[::1]:80", "is not on the list"),
        ("http://2130706433/", "is not on the list"),
        ("ftp://partner.test", "http"),
        ("http://user:pw@127.0.0.1/", "without user and password"),
    ],
)
def test_a_host_that_is_not_listed_is_refused(fleet: Fleet, target: str, word: str) -> None:
    with pytest.raises(RunFailed, match=word.replace("(", r"\(")) as refused:
        asking(fleet, target, "add")
    assert refused.value.code == "target_refused"


def test_a_card_cannot_lure_us_to_another_host(fleet: Fleet, elsewhere: Elsewhere) -> None:
    with pytest.raises(RunFailed, match=r"'127\.0\.0\.3' is not on the list") as refused:
        asking(fleet, f"{elsewhere.url}/lures", "add")
    assert refused.value.code == "target_refused"


def test_a_redirect_is_not_followed(fleet: Fleet, elsewhere: Elsewhere) -> None:
    with pytest.raises(RunFailed) as failed:
        asking(fleet, f"{elsewhere.url}/redirects", "add")
    assert failed.value.code == "remote_error"


def test_a_fleet_without_a_list_calls_nobody(harbour: ValkeyServer, elsewhere: Elsewhere) -> None:
    with (
        FleetWorker(harbour, "tests.trust.agents", namespace="closed"),
        Fleet(settings=_settings(harbour, namespace="closed")) as fleet,
        pytest.raises(RunFailed, match="SKILLFLEET_A2A_HOSTS") as refused,
    ):
        asking(fleet, elsewhere.url, "add")
    assert refused.value.code == "capability_unavailable"


def _settings(server: ValkeyServer, **values: Any) -> Any:
    from skillfleet_producer import Settings

    return Settings.load(redis_url=server.url_of(acl.PRODUCER, values["namespace"]), **values)


async def test_a_listed_name_that_resolves_to_loopback_is_refused() -> None:
    with pytest.raises(TargetRefusedError, match="not public and not listed"):
        await Hosts.parse("localhost").resolve("localhost", 80)


async def test_a_credential_goes_to_its_host_alone_over_tls_to_the_address_that_was_checked() -> (
    None
):
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    hosts = Hosts.parse("localhost, 127.0.0.0/8, ::1")
    guarded = GuardedTransport(hosts, 1000, {"localhost": lambda: "Bearer t0ken"})
    guarded._inner = httpx.MockTransport(answer)  # type: ignore[assignment]
    async with httpx.AsyncClient(transport=guarded) as client:
        for url in ("https://localhost/a", "http://localhost/b", "https://127.0.0.1/c"):
            await client.get(url, headers={"authorization": "of the caller", "cookie": "a=b"})
    tls, plain, other = sent
    assert tls.headers["authorization"] == "Bearer t0ken"
    assert "authorization" not in plain.headers
    assert "authorization" not in other.headers
    assert all("cookie" not in request.headers for request in sent)
    assert tls.url.host in {"127.0.0.1", "::1"}
    assert tls.headers["host"] == tls.extensions["sni_hostname"] == "localhost"


async def test_a_listed_name_may_resolve_to_a_listed_address() -> None:
    hosts = Hosts.parse("localhost, 127.0.0.0/8, ::1")
    assert await hosts.resolve("localhost", 80) in {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
async def test_an_address_that_is_not_public_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    async def answers(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answers)
    with pytest.raises(TargetRefusedError, match="not public"):
        await Hosts.parse("partner.test").resolve("partner.test", 80)


@pytest.mark.parametrize(
    ("listed", "host", "allowed"),
    [
        ("partner.test", "PARTNER.test.", True),
        ("partner.test", "evil-partner.test", False),
        ("*.partner.test", "a.partner.test", True),
        ("*.partner.test", "partner.test", False),
        ("*.partner.test", "apartner.test", False),
        ("", "partner.test", False),
    ],
)
def test_names_are_compared_whole(listed: str, host: str, allowed: bool) -> None:
    hosts = Hosts.parse(listed)
    if allowed:
        hosts.check_name(host)
    else:
        with pytest.raises(TargetRefusedError):
            hosts.check_name(host)


@pytest.mark.parametrize("text", ["http://x", "a b", "*", "10.0.0.0/33"])
def test_a_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_A2A_HOSTS"):
        Hosts.parse(text)


def test_a_credential_needs_a_host_and_a_secret_that_exists() -> None:
    secrets = EnvironmentSecrets({"S_TOKEN": "t0ken"}, "S_")
    assert credentials_from("Partner.test=token", secrets)["partner.test"]() == "Bearer t0ken"
    for text in ("partner.test", "=token", "partner.test=nothing"):
        with pytest.raises(SettingsError, match="SKILLFLEET_A2A_CREDENTIALS"):
            credentials_from(text, secrets)
