"""Tokens of inputs: signing them, and using them for anything else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from skillfleet.errors import UnauthorizedError
from skillfleet.ports.admission import Admission, IncomingCall, IncomingInput, InputKind
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet_auth import token_admission
from skillfleet_auth.signing import Signing
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.runs.inbox import InboxMessage
from tests.auth.keys import Keys
from tests.auth.token_factory import ADA, TokenFactory
from tests.support.valkey import ValkeyServer

ANSWER = IncomingInput("a-run", "1", InputKind.ANSWER, {"go": True, "to": ["x", "y"]})
MESSAGE = IncomingInput("a-run", "", InputKind.MESSAGE, "go on")


@asynccontextmanager
async def admission_of(keys: Keys, url: str) -> AsyncIterator[Admission]:
    """The admission of a worker that trusts the test's producers."""
    settings = keys.settings(url)
    ledger = Ledger(settings)
    variables = {
        "SKILLFLEET_AUTH_KEYS": str(keys.producers),
        "SKILLFLEET_AUTH_WORKER_KEYS": str(keys.workers),
    }
    services = {Settings: settings, Ledger: ledger}
    try:
        yield token_admission.create(AdapterEnvironment(variables=variables, services=services))
    finally:
        await ledger.close()


def signed(keys: Keys, given: IncomingInput, name: str = "backend", **settings: float) -> str:
    return Signing(keys.settings("redis://127.0.0.1:1/0", name, **settings)).input_token(given, ADA)


async def test_an_accepted_answer_outlasts_the_expiry_of_its_token(
    keys: Keys, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillfleet_auth.signing.time.time", lambda: 1_700_000_000.0)
    token = signed(keys, ANSWER, auth_token_seconds=1)
    async with admission_of(keys, valkey.url) as admission:
        assert await admission.admit_input(replace(ANSWER, token=token)) == "ada"


async def test_the_order_of_names_in_an_answer_does_not_matter(
    keys: Keys, valkey: ValkeyServer
) -> None:
    stored = replace(ANSWER, value={"to": ["x", "y"], "go": True}, token=signed(keys, ANSWER))
    async with admission_of(keys, valkey.url) as admission:
        assert await admission.admit_input(stored) == "ada"


async def test_a_workers_key_gives_no_input(keys: Keys, valkey: ValkeyServer) -> None:
    token = signed(keys, MESSAGE, "worker")
    async with admission_of(keys, valkey.url) as admission:
        with pytest.raises(UnauthorizedError, match="not trusted"):
            await admission.admit_input(replace(MESSAGE, token=token))


async def test_the_token_of_an_input_starts_no_run(keys: Keys, valkey: ValkeyServer) -> None:
    factory = TokenFactory(valkey.url, keys)
    new = await factory.prepare("fleet.echo", {"text": "hi"})
    token = factory.token(new, use="input")
    call = IncomingCall(new.id, new.task, {"text": "hi"}, None, token, None, new.id, 0, plain=True)
    async with admission_of(keys, valkey.url) as admission:
        for plain in (True, False):
            with pytest.raises(UnauthorizedError, match="not for this use"):
                await admission.admit(replace(call, plain=plain))
    await factory.fleet.close()


def test_without_a_key_an_input_is_refused_where_one_is_required(keys: Keys) -> None:
    required = Settings.load(redis_url="redis://127.0.0.1:1/0", auth="required")
    with pytest.raises(UnauthorizedError, match="signed answers and messages only"):
        Signing(required).input_token(ANSWER, ADA)
    off = Settings.load(redis_url="redis://127.0.0.1:1/0")
    assert Signing(off).input_token(ANSWER, ADA) == ""


def test_an_inbox_message_keeps_its_json_and_does_not_show_its_token() -> None:
    sent = InboxMessage(b'{"text":"one\\ntwo"}', "ada", "a.b.c")
    assert InboxMessage.unpacked(sent.packed()) == sent
    assert sent.packed().partition(b"\n")[2] == sent.value
    assert "a.b.c" not in repr(sent)


@pytest.mark.parametrize("entry", [b"", b"{}", b"{}\n1", b"x\n1", b"[]\n1"])
def test_an_entry_that_is_no_inbox_message_is_a_value_error(entry: bytes) -> None:
    with pytest.raises(ValueError, match="a line about its sender"):
        InboxMessage.unpacked(entry)
