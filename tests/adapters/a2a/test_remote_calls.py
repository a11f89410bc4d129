"""Calls of remote agents over HTTP: what comes back, what stops them, what never leaves."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

from skillfleet.contracts import RunState
from skillfleet.errors import RunFailed
from skillfleet.redaction import HIDDEN
from skillfleet_producer import Fleet
from tests.adapters.a2a.remote_agent import RemoteAgent, ask, calling_fleet
from tests.support import acl
from tests.support.fleet import FleetWorker
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("", [["progress", {"message": "on it"}]]),
        ("/rest", [["progress", {"message": "on it"}]]),
        ("/whole", []),
    ],
    ids=["JSON-RPC", "HTTP+JSON", "without streaming"],
)
def test_a_call_brings_back_value_events_and_artifacts(
    caller: Fleet, remote_agent: RemoteAgent, path: str, events: list[Any]
) -> None:
    seen = ask(caller, remote_agent.url + path, "add", args={"x": 2, "y": 3})
    assert seen["result"] == {"sum": 5}
    assert seen["events"] == events
    ((name, uri, mime),) = seen["artifacts"]
    assert (name, mime) == ("report.md", "text/plain")
    assert base64.b64decode(uri.partition(",")[2]) == b"a report"


def test_the_trace_goes_along_and_no_credentials_do_without_tls(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=flags)
    )
    with trace.use_span(span):
        ask(caller, remote_agent.url, "add", args={"x": 20, "y": 30})
    asked = next(one for one in remote_agent.noted("asked") if one["args"] == {"x": 20, "y": 30})
    assert asked["headers"]["a2a-version"] == "1.0"
    assert asked["headers"]["traceparent"].startswith(f"00-{0xABC:032x}-")
    assert "authorization" not in asked["headers"]
    assert "cookie" not in asked["headers"]


def test_the_same_key_gives_the_same_message_id(caller: Fleet, remote_agent: RemoteAgent) -> None:
    before = len(remote_agent.noted("asked"))
    ask(caller, remote_agent.url, "add", args={"x": 1, "y": 1}, key="k")
    ask(caller, remote_agent.url, "add", args={"x": 1, "y": 1}, key="k")
    first, second = remote_agent.noted("asked")[before:]
    assert first["id"] != second["id"], "two runs share no message ids"


@pytest.mark.parametrize(
    ("skill", "code", "word"),
    [("fail", "skill_error", "it went wrong"), ("ask", "input_required", "which one?")],
)
def test_other_ends_of_the_task_are_errors_with_a_code(
    caller: Fleet, remote_agent: RemoteAgent, skill: str, code: str, word: str
) -> None:
    with pytest.raises(RunFailed, match=word.replace("?", r"\?")) as failed:
        ask(caller, remote_agent.url, skill)
    assert failed.value.code == code


@pytest.mark.parametrize("path", ["", "/rest"])
def test_our_cancel_cancels_the_remote_task(
    caller: Fleet, remote_agent: RemoteAgent, path: str
) -> None:
    before = len(remote_agent.noted("cancelled"))
    started = len(remote_agent.noted("asked"))
    run = caller.enqueue("caller.asks", {"target": remote_agent.url + path, "skill": "wait"})
    wait_until(lambda: len(remote_agent.noted("asked")) > started)
    run.cancel()
    wait_until(lambda: len(remote_agent.noted("cancelled")) > before, what="the task's cancel")
    wait_until(lambda: run.status().state is RunState.CANCELLED)


def test_a_call_that_takes_too_long_is_ended_here_and_there(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    before = len(remote_agent.noted("cancelled"))
    with pytest.raises(RunFailed) as over:
        ask(caller, remote_agent.url, "wait", timeout=1)
    assert over.value.code == "deadline_exceeded"
    wait_until(lambda: len(remote_agent.noted("cancelled")) > before, what="the task's cancel")


def test_an_answer_that_is_too_large_is_cut_off(caller: Fleet, remote_agent: RemoteAgent) -> None:
    with pytest.raises(RunFailed, match="larger than 1000000 bytes"):
        ask(caller, remote_agent.url, "large", args={"size": 2_000_000})
    with pytest.raises(RunFailed, match="larger than 1000000 bytes"):
        ask(caller, f"{remote_agent.url}/endless", "add")


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("http://example.org", "'example.org' is not on the list"),
        ("http://127.0.0.2:9", "'127.0.0.2' is not on the list"),
        ("http://169.254.169.254/latest", "is not on the list"),
        ("http://[::1]:80", "is not on the list"),
        ("http://2130706433/", "is not on the list"),
        ("http://0x7f.1/", "is not on the list"),
        ("http://[::ffff:127.0.0.2]/", "is not on the list"),
        ("http://partner.test.evil.test/", "is not on the list"),
        ("http://partner.test@evil.test/", "without user and password"),
        ("http://[::1/", "is not a URL"),
        ("ftp://partner.test", "http"),
        ("http://user:pw@127.0.0.1/", "without user and password"),
    ],
)
def test_a_host_that_is_not_listed_is_refused(caller: Fleet, target: str, word: str) -> None:
    with pytest.raises(RunFailed, match=word.replace("(", r"\(")) as refused:
        ask(caller, target, "add")
    assert refused.value.code == "target_refused"


def test_a_card_cannot_lure_us_to_another_host(caller: Fleet, remote_agent: RemoteAgent) -> None:
    with pytest.raises(RunFailed, match=r"'127\.0\.0\.3' is not on the list") as refused:
        ask(caller, f"{remote_agent.url}/lures", "add")
    assert refused.value.code == "target_refused"


@pytest.mark.parametrize(("path", "offered"), [("/grpc", "GRPC 1.0"), ("/old", "JSONRPC 0.3")])
def test_an_agent_that_speaks_otherwise_is_refused_with_what_it_offers(
    caller: Fleet, remote_agent: RemoteAgent, path: str, offered: str
) -> None:
    with pytest.raises(RunFailed, match=f"offers {offered}; a fleet supports") as refused:
        ask(caller, remote_agent.url + path, "add")
    assert refused.value.code == "capability_unavailable"


def test_an_answer_that_comes_drop_by_drop_ends_with_the_calls_time(
    caller: Fleet, remote_agent: RemoteAgent
) -> None:
    with pytest.raises(RunFailed, match="took more than 1 s") as over:
        ask(caller, f"{remote_agent.url}/drips", "add", timeout=1)
    assert over.value.code == "deadline_exceeded"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteAgent]:
    """The agent with a certificate that it has signed itself."""
    agent = RemoteAgent(tmp_path_factory.mktemp("secured"), tls=True)
    yield agent
    agent.close()


def test_an_agent_with_a_certificate_of_ones_own_authority_is_called_with_its_credential(
    secured: RemoteAgent,
) -> None:
    with (
        calling_fleet(a2a_ca_files=f"127.0.0.1={secured.certificate}") as server,
        Fleet(server.producer_url) as fleet,
    ):
        assert ask(fleet, secured.url, "add", args={"x": 2, "y": 3})["result"] == {"sum": 5}
    (asked,) = secured.noted("asked")
    assert asked["headers"]["authorization"] == "Bearer token-for-the-partner"


def test_a_credential_that_the_remote_agent_returns_is_hidden(secured: RemoteAgent) -> None:
    with (
        calling_fleet(a2a_ca_files=f"127.0.0.1={secured.certificate}") as server,
        Fleet(server.producer_url) as fleet,
    ):
        for how in ("data", "text", "failure", "error"):
            try:
                reported = repr(ask(fleet, secured.url, "echo", args={"how": how}))
            except RunFailed as error:
                reported = str(error)
            assert HIDDEN in reported, reported
            assert "token-for-the-partner" not in reported


def test_a_certificate_of_an_unknown_authority_ends_the_call(
    caller: Fleet, secured: RemoteAgent
) -> None:
    before = len(secured.noted("asked"))
    with pytest.raises(RunFailed, match=r"(?i)certificate") as refused:
        ask(caller, secured.url, "add", args={"x": 2, "y": 3})
    assert refused.value.code == "remote_error"
    assert len(secured.noted("asked")) == before


def test_a_redirect_is_not_followed(caller: Fleet, remote_agent: RemoteAgent) -> None:
    with pytest.raises(RunFailed) as failed:
        ask(caller, f"{remote_agent.url}/redirects", "add")
    assert failed.value.code == "remote_error"


def test_a_fleet_without_a_list_makes_no_remote_calls(
    calling_server: ValkeyServer, remote_agent: RemoteAgent
) -> None:
    with (
        FleetWorker(calling_server, "tests.auth.agents", namespace="closed"),
        Fleet(settings=_settings(calling_server, namespace="closed")) as fleet,
        pytest.raises(RunFailed, match="SKILLFLEET_A2A_HOSTS") as refused,
    ):
        ask(fleet, remote_agent.url, "add")
    assert refused.value.code == "capability_unavailable"


def _settings(server: ValkeyServer, **values: Any) -> Any:
    from skillfleet_producer import Settings

    return Settings.load(redis_url=server.url_of(acl.PRODUCER, values["namespace"]), **values)
