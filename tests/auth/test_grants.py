"""Attacks on grants: each is refused, with a reason and without showing the token."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skillfleet.contracts import TokenClaims, TokenUse, WorkspaceMode
from skillfleet.contracts.grants import GRANT_BYTES, GRANT_TYPE, MOST_GRANT_DEPTH
from skillfleet.errors import GrantInvalid, UnauthorizedError
from skillfleet.ports.grants import Delegation, GrantAuthority, GrantParty
from skillfleet_auth.grants import grant_signer
from skillfleet_auth.keys import PublicKeys
from skillfleet_auth.settings import AuthSettings
from skillfleet_auth.signing import load_private_key
from skillfleet_auth.verification import TokenVerifier
from skillfleet_ledger import Ledger, Settings
from tests.auth.keys import Keys
from tests.support.valkey import ValkeyServer

CALLER = GrantParty("run-1", "writer", "run-1", "/chat", "ada", "acme")
CALLED = GrantParty("run-2", "reviewer", "run-1", None, "ada", "acme")


@dataclass
class Issuer:
    """A fleet's authority, its ledger, and a clock that a test may move."""

    keys: Keys
    ledger: Ledger
    late: float = 0.0

    def __post_init__(self) -> None:
        self.settings = Settings.load(auth_signing_key_file=self.keys.private("worker"))
        self.signer = grant_signer(AuthSettings(auth_worker_keys=self.keys.workers), self.settings)
        self.authority = GrantAuthority(self.signer, self.ledger.grants, self.now)

    def now(self) -> float:
        return time.time() + self.late

    async def granted(self, **asked: Any) -> str:
        own = self.authority.own(CALLER, "w", WorkspaceMode.READ_WRITE_OVERLAY)
        return await self.authority.delegate(
            own, Delegation(**{"audience": "reviewer"} | asked), CALLER
        )

    def install(self, token: str, party: GrantParty = CALLED) -> Any:
        return self.authority.install(token, party)

    def resigned(
        self,
        token: str,
        *,
        key: str = "worker",
        kid: str = "worker",
        header: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """The token with other claims, signed with a key of the tests."""
        claims = jwt.decode(token, options={"verify_signature": False}) | changes
        _, private = load_private_key(self.keys.private(key))
        headers = {"kid": kid, "typ": GRANT_TYPE} | (header or {})
        return jwt.encode(claims, private, algorithm="EdDSA", headers=headers)


@pytest.fixture
async def issuer(keys: Keys, server: ValkeyServer) -> AsyncIterator[Issuer]:
    ledger = Ledger(Settings.load(redis_url=server.url))
    yield Issuer(keys, ledger)
    await ledger.close()


def refused(reason: str) -> Any:
    return pytest.raises(GrantInvalid, check=lambda error: error.reason == reason)


async def refuses(issuer: Issuer, token: str, reason: str) -> None:
    """Require that a token is refused in a message that shows no part of it."""
    with refused(reason) as error:
        await issuer.install(token)
    shown = f"{error.value} {error.value!r} {error.value.__cause__}"
    assert not any(len(part) > 8 and part in shown for part in token.split("."))
    assert error.value.code == "grant_invalid"


async def test_a_good_grant_is_installed_again_by_its_run_only(issuer: Issuer) -> None:
    token = await issuer.granted(allow_patterns=("src/**",))
    grant = await issuer.install(token)
    assert (grant.workspace, grant.allows("src/a"), grant.allows("b")) == ("w", True, False)
    assert await issuer.install(token) == grant
    with refused("replayed"):
        await issuer.install(token, replace(CALLED, run_id="run-3"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "untrusted"}, "signature"),
        ({"key": "untrusted", "kid": "untrusted"}, "key"),
        ({"key": "backend", "kid": "backend"}, "key"),
        ({"kid": ""}, "key"),
        ({"kid": "../workers/worker"}, "key"),
        ({"header": {"typ": "JWT"}}, "type"),
        ({"iss": "other"}, "issuer"),
        ({"fleet": "other"}, "fleet"),
        ({"exp": 1}, "malformed"),
        ({"exp": 2**40}, "malformed"),
        ({"iat": 2**33, "exp": 2**33 + 60}, "malformed"),
        ({"aud": ["reviewer", "outsider"]}, "malformed"),
        ({"lineage": []}, "malformed"),
        ({"lineage": ["0" * 16] * (MOST_GRANT_DEPTH + 1)}, "malformed"),
        ({"levels": []}, "malformed"),
        ({"levels": [{"allow": ["/**"]}] * 2}, "malformed"),
        ({"levels": [{"allow": ["a/../../**"]}] * 2}, "malformed"),
        ({"mode": "everything"}, "malformed"),
        ({"more": 1}, "malformed"),
        ({"jti": ""}, "malformed"),
        ({"aud": "outsider"}, "audience"),
        ({"root": "run-9"}, "session"),
        ({"tenant": "other"}, "tenant"),
        ({"sub": "bob"}, "subject"),
    ],
)
async def test_a_forged_grant_is_refused(
    issuer: Issuer, change: dict[str, Any], reason: str
) -> None:
    """Those with a wrong claim are signed with a trusted key: the claim alone is refused."""
    token = await issuer.granted()
    assert issuer.signer.verify(issuer.resigned(token))
    await refuses(issuer, issuer.resigned(token, **change), reason)


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "iat", "exp", "jti", "mode", "root"])
async def test_a_grant_without_one_of_its_claims_is_refused(issuer: Issuer, claim: str) -> None:
    token = await issuer.granted()
    claims = jwt.decode(token, options={"verify_signature": False})
    del claims[claim]
    _, private = load_private_key(issuer.keys.private("worker"))
    headers = {"kid": "worker", "typ": GRANT_TYPE}
    incomplete = jwt.encode(claims, private, algorithm="EdDSA", headers=headers)
    await refuses(issuer, incomplete, "malformed")


async def test_other_algorithms_are_refused(issuer: Issuer) -> None:
    token = await issuer.granted()
    claims = jwt.decode(token, options={"verify_signature": False})
    headers = {"kid": "worker", "typ": GRANT_TYPE}
    _, private = load_private_key(issuer.keys.private("worker"))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    await refuses(issuer, jwt.encode(claims, "", algorithm="none", headers=headers), "algorithm")
    symmetric = jwt.encode(claims, public, algorithm="HS256", headers=headers)
    await refuses(issuer, symmetric, "algorithm")
    # The same, with the name of the right algorithm in the header.
    header, _, rest = symmetric.partition(".")
    honest, _, _ = token.partition(".")
    assert header != honest
    await refuses(issuer, f"{honest}.{rest}", "signature")


async def test_altered_claims_are_refused(issuer: Issuer) -> None:
    header, payload, signature = (await issuer.granted()).split(".")
    _, wider, _ = (await issuer.granted(mode=WorkspaceMode.READ_WRITE_OVERLAY)).split(".")
    await refuses(issuer, f"{header}.{wider}.{signature}", "signature")
    await refuses(issuer, f"{header}.{payload}.", "signature")
    for nonsense in ("", "a", "a.b.c", f"{header}.{payload}", "\udc80.b.c", "…"):
        await refuses(issuer, nonsense, "malformed")


async def test_an_expired_grant_is_refused_also_in_use(issuer: Issuer) -> None:
    token = await issuer.granted(ttl_seconds=60)
    grant = await issuer.install(token)
    issuer.late = 61
    await refuses(issuer, token, "expired")
    with refused("expired"):
        await issuer.authority.check(grant)


async def test_a_grant_of_another_session_or_tree_is_refused(issuer: Issuer) -> None:
    token = await issuer.granted()
    for party in (
        replace(CALLED, root_id="run-9"),
        replace(CALLED, root_id="run-9", session="/other"),
    ):
        with refused("session"):
            await issuer.install(token, party)


async def test_a_grant_is_delegated_to_a_limited_depth(issuer: Issuer) -> None:
    grant = await issuer.install(await issuer.granted())
    for _ in range(MOST_GRANT_DEPTH - 1):
        token = await issuer.authority.delegate(grant, Delegation("reviewer"), CALLER)
        grant = await issuer.install(token)
    with refused("wider"):
        await issuer.authority.delegate(grant, Delegation("reviewer"), CALLER)


async def test_tokens_are_limited_in_size(issuer: Issuer) -> None:
    with refused("too_large"):
        await issuer.granted(allow_patterns=("a" * 1000,) * 5)
    await refuses(issuer, "a" * (GRANT_BYTES + 1), "too_large")


async def test_nothing_works_without_a_key(issuer: Issuer, server: ValkeyServer) -> None:
    """There is no default key, neither to sign with nor to verify with."""
    bare = grant_signer(AuthSettings(), Settings.load(redis_url=server.url))
    authority = GrantAuthority(bare, issuer.ledger.grants)
    own = authority.own(CALLER, "w", WorkspaceMode.READ_ONLY)
    with refused("no_key"):
        await authority.delegate(own, Delegation("reviewer"), CALLER)
    with refused("no_key"):
        await authority.install(await issuer.granted(), CALLED)


async def test_a_grant_is_no_token_of_a_run_and_the_reverse(issuer: Issuer) -> None:
    workers = PublicKeys(issuer.keys.workers, "X")
    verifier = TokenVerifier("skillfleet", "skillfleet", workers, workers)
    with pytest.raises(UnauthorizedError):
        verifier.verify(await issuer.granted(audience="skillfleet"))
    now = int(time.time())
    claims = TokenClaims(
        iss="skillfleet",
        aud="skillfleet",
        sub="ada",
        iat=now,
        exp=now + 60,
        use=TokenUse.CALL,
        run="run-2",
        call="",
    ).model_dump(mode="json", exclude_defaults=True)
    _, private = load_private_key(issuer.keys.private("worker"))
    of_a_run = jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": "worker"})
    assert verifier.verify(of_a_run).run == "run-2"
    await refuses(issuer, of_a_run, "type")


async def test_revocations_hold_while_the_grants_last_and_then_are_gone(issuer: Issuer) -> None:
    held = await issuer.install(await issuer.granted())
    below = await issuer.install(
        await issuer.authority.delegate(held, Delegation("reviewer"), CALLER)
    )
    waiting = await issuer.granted()
    await issuer.authority.revoke(held)
    with refused("revoked"):
        await issuer.authority.check(below)
    await issuer.install(waiting)
    await issuer.authority.revoke_all("/chat")
    await refuses(issuer, waiting, "revoked")
    await issuer.authority.check(await issuer.install(await issuer.granted()))
    connection, prefix = issuer.ledger.connection, issuer.ledger.keys.prefix("/chat")
    notes = await connection.execute("KEYS", f"{prefix}grant*")
    assert len(notes) >= 4
    for note in notes:
        assert 0 < await connection.execute("PTTL", note) <= 25 * 3_600_000


async def test_a_revocation_counts_after_redis_clock_was_set_back(issuer: Issuer) -> None:
    await issuer.authority.revoke_all("/chat")
    ahead = await issuer.ledger.grants.epoch("/chat") + 3_600_000
    key = f"{issuer.ledger.keys.prefix('/chat')}grant_epoch:/chat"
    await issuer.ledger.connection.execute("SET", key, ahead)
    token = await issuer.granted()
    await issuer.authority.check(await issuer.install(token))
    await issuer.authority.revoke_all("/chat")
    await refuses(issuer, token, "revoked")


async def test_a_grant_that_was_revoked_before_its_installation_stays_so(issuer: Issuer) -> None:
    token = await issuer.granted()
    await issuer.authority.revoke(issuer.signer.verify(token))
    await refuses(issuer, token, "revoked")
    ledger = issuer.ledger.grants
    grant = issuer.signer.verify(token)
    assert await ledger.bind(grant.scope, grant.jti, "run-2", 60) == "revoked"
