"""Grants: what a chain of delegations allows, and who may use the last link."""

from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skillfleet import Agent, JWTAuth, LocalRunContext, NoAuth, RunContext
from skillfleet.contracts import WorkspaceMode
from skillfleet.contracts.grants import (
    MOST_GRANT_DEPTH,
    MOST_GRANT_SECONDS,
    FileOperation,
    Grant,
    GrantLevel,
)
from skillfleet.errors import GrantInvalid
from skillfleet.ports.grants import Delegation, GrantAuthority, GrantParty
from skillfleet.testing import InProcessA2AClient
from skillfleet.testing.local_context import LocalRunScope
from skillfleet.testing.local_grants import local_authority

CALLER = GrantParty("run-1", "writer", "run-1", "/chat", "ada", "acme")
CALLED = GrantParty("run-2", "reviewer", "run-1", None, "ada", "acme")
DIRECT = WorkspaceMode.READ_WRITE_DIRECT
READ, OVERLAY = WorkspaceMode.READ_ONLY, WorkspaceMode.READ_WRITE_OVERLAY
NFD = "caf" + "e\u0301"


@dataclass
class Desk:
    """An authority with a clock, and the caller's own access."""

    now: float = 1_000_000.0
    authority: GrantAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = local_authority(lambda: self.now)

    def own(self, mode: WorkspaceMode = DIRECT, **more: Any) -> Grant:
        return self.authority.own(CALLER, "session:/chat", mode, **more)

    async def granted(self, held: Grant | None = None, **asked: Any) -> str:
        asked = {"audience": "reviewer"} | asked
        return await self.authority.delegate(held or self.own(), Delegation(**asked), CALLER)

    async def installed(self, held: Grant | None = None, **asked: Any) -> Grant:
        return await self.authority.install(await self.granted(held, **asked), CALLED)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def refused(reason: str) -> Any:
    return pytest.raises(GrantInvalid, check=lambda error: error.reason == reason)


_PATHS = st.lists(st.sampled_from(["a", "b", ".env", "out", "A"]), min_size=1, max_size=4).map(
    "/".join
)
_PATTERNS = st.lists(
    st.sampled_from(["**", "*", "a", "b", ".env", "?", "out"]), min_size=1, max_size=4
).map("/".join)
_ALL_PATHS = [
    "/".join(each) for n in (1, 2) for each in product(["a", "b", ".env", "out"], repeat=n)
]
_ALL_OPERATIONS: tuple[FileOperation, ...] = ("read", "write", "delete")
_LINKS = st.fixed_dictionaries(
    {
        "level": st.builds(
            GrantLevel,
            allow=st.lists(_PATTERNS, max_size=3).map(tuple),
            outputs=st.one_of(st.none(), _PATHS),
        ),
        "deny": st.lists(_PATTERNS, max_size=2).map(tuple),
        "mode": st.sampled_from(WorkspaceMode),
        "seconds": st.integers(1, 600),
        "audience": st.sampled_from(["writer", "reviewer"]),
    }
)


@given(links=st.lists(_LINKS, min_size=1, max_size=MOST_GRANT_DEPTH))
def test_whatever_the_last_link_of_a_chain_allows_every_link_allows(
    links: list[dict[str, Any]],
) -> None:
    chain = [Desk().own()]
    for number, link in enumerate(links):
        if not link["mode"].within(chain[-1].mode):
            link["mode"] = chain[-1].mode
        now = chain[-1].iat
        chain.append(chain[-1].narrowed(jti=f"{number:016}", now=now, root="run-1", **link))
    for path, operation in product(_ALL_PATHS, _ALL_OPERATIONS):
        if chain[-1].allows(path, operation):
            assert all(each.allows(path, operation) for each in chain)
            # What a link allows by itself, without those above it, is no narrower either.
            assert all(link["level"].permits(path, operation) for link in links)
    for above, below in pairwise(chain):
        assert below.exp <= above.exp
        assert below.mode.within(above.mode)
        assert set(above.deny) <= set(below.deny)
        assert (below.parent, below.depth) == (above.jti, above.depth + 1)


@pytest.mark.parametrize(
    ("path", "operation", "why"),
    [
        ("src/a.py", "read", None),
        ("src", "read", None),
        ("out/b/c.txt", "read", None),
        ("out/b/c.txt", "write", None),
        ("out/b/c.txt", "delete", None),
        ("src/a.py", "write", "does not cover"),
        ("outer/c.txt", "write", "does not cover"),
        ("docs/a", "read", "does not cover"),
        ("src/.env", "read", "denies"),
        ("src/.ENV", "read", "denies"),
        ("SRC/a.py", "read", "does not cover"),
        ("src/../docs/a", "read", "contains '..'"),
        ("src/./a", "read", "empty component"),
        ("src//a", "read", "empty component"),
        ("/src/a.py", "read", "absolute"),
        ("src/a\0.py", "read", "NUL"),
        ("src\\a.py", "read", "backslash"),
        (f"src/{NFD}", "read", "NFC"),
    ],
)
async def test_a_grant_covers_what_it_lists(
    desk: Desk, path: str, operation: FileOperation, why: str | None
) -> None:
    grant = await desk.installed(
        allow_patterns=("src/**",), deny_patterns=("**/.env",), mode=DIRECT, outputs_prefix="out"
    )
    refusal = grant.refusal(path, operation)
    assert refusal is None if why is None else why in (refusal or "")
    assert grant.allows(path, operation) is (why is None)


async def test_what_is_for_reading_only_is_not_written(desk: Desk) -> None:
    grant = await desk.installed()
    assert grant.allows("a", "read")
    assert grant.refusal("a", "write") == "the grant is for reading only"


async def test_a_mode_is_never_wider_than_the_held_one(desk: Desk) -> None:
    held = desk.own(OVERLAY)
    assert (await desk.installed(held, mode=OVERLAY)).mode is OVERLAY
    with refused("wider"):
        await desk.granted(held, mode=DIRECT)


async def test_a_grant_expires_no_later_than_the_held_one(desk: Desk) -> None:
    held = await desk.installed(ttl_seconds=100)
    desk.now += 40
    narrower = await desk.granted(held, audience="helper", ttl_seconds=500)
    grant = await desk.authority.install(narrower, replace(CALLED, run_id="r3", agent="helper"))
    assert grant.exp == held.exp
    desk.now = held.exp
    for each in (held, grant):
        with refused("expired"):
            await desk.authority.check(each)
    with refused("expired"):
        await desk.granted(held)
    with refused("expired"):
        await desk.authority.install(narrower, replace(CALLED, run_id="r3", agent="helper"))


async def test_delegations_are_limited_in_depth(desk: Desk) -> None:
    held = desk.own()
    for _ in range(MOST_GRANT_DEPTH):
        held = await desk.installed(held)
    with refused("wider"):
        await desk.granted(held)


@pytest.mark.parametrize("seconds", [0, -1, MOST_GRANT_SECONDS + 1])
async def test_a_grant_lasts_a_day_at_most(desk: Desk, seconds: int) -> None:
    with refused("expiry"):
        await desk.granted(ttl_seconds=seconds)


@pytest.mark.parametrize("pattern", ["/etc/**", "../**", "a/../b", "", "a\0", NFD])
@pytest.mark.parametrize("where", ["allow_patterns", "deny_patterns", "outputs_prefix"])
async def test_patterns_are_checked_when_they_are_given(
    desk: Desk, where: str, pattern: str
) -> None:
    asked: dict[str, Any] = {where: pattern if where == "outputs_prefix" else (pattern,)}
    with refused("malformed") as error:
        await desk.granted(**asked)
    assert not pattern or pattern not in str(error.value)


@pytest.mark.parametrize(
    ("party", "reason"),
    [
        (replace(CALLED, agent="outsider"), "audience"),
        (replace(CALLED, root_id="run-9"), "session"),
        (replace(CALLED, root_id="run-9", session="/other"), "session"),
        (replace(CALLED, tenant="other"), "tenant"),
        (replace(CALLED, tenant=None), "tenant"),
        (replace(CALLED, subject="bob"), "subject"),
    ],
)
async def test_only_those_a_grant_is_for_may_install_it(
    desk: Desk, party: GrantParty, reason: str
) -> None:
    token = await desk.granted()
    with refused(reason) as error:
        await desk.authority.install(token, party)
    assert token not in str(error.value)
    assert (await desk.authority.install(token, CALLED)).workspace == "session:/chat"


async def test_another_run_of_the_session_may_install_a_grant(desk: Desk) -> None:
    other_tree = replace(CALLED, root_id="run-9", session="/chat")
    assert await desk.authority.install(await desk.granted(), other_tree)


async def test_a_grant_may_be_for_one_run(desk: Desk) -> None:
    token = await desk.granted(audience="run-2")
    with refused("audience"):
        await desk.authority.install(token, replace(CALLED, run_id="run-3"))
    assert await desk.authority.install(token, CALLED)


async def test_a_grant_belongs_to_the_first_run_that_installs_it(desk: Desk) -> None:
    token = await desk.granted()
    first = await desk.authority.install(token, CALLED)
    with refused("replayed"):
        await desk.authority.install(token, replace(CALLED, run_id="run-3"))
    assert await desk.authority.install(token, CALLED) == first


async def test_a_revoked_grant_ends_with_all_that_narrow_it(desk: Desk) -> None:
    held, other = await desk.installed(), await desk.installed()
    below = await desk.installed(held)
    await desk.authority.revoke(held)
    for each in (held, below):
        with refused("revoked"):
            await desk.authority.check(each)
        with refused("revoked"):
            await desk.granted(each)
    await desk.authority.check(other)


async def test_grants_are_revoked_with_their_session(desk: Desk) -> None:
    held, waiting = await desk.installed(), await desk.granted()
    await desk.authority.revoke_all("/chat")
    with refused("revoked"):
        await desk.authority.check(held)
    with refused("revoked"):
        await desk.authority.install(waiting, CALLED)
    await desk.authority.check(await desk.installed())


async def test_a_grant_is_handed_to_its_audience_only(desk: Desk) -> None:
    token = await desk.granted()
    assert (await desk.authority.hand_over(token, CALLER, "reviewer")).aud == "reviewer"
    with refused("audience"):
        await desk.authority.hand_over(token, CALLER, "outsider")
    outsider = replace(CALLER, root_id="x", session=None)
    with refused("session"):
        await desk.authority.hand_over(token, outsider, "reviewer")


def test_claims_with_fewer_levels_than_delegations_are_refused() -> None:
    claims = Desk().own().model_dump()
    with pytest.raises(ValidationError, match="one level for each delegation"):
        Grant.model_validate(claims | {"lineage": ("0" * 16,)})
    with pytest.raises(ValidationError, match="at most"):
        Grant.model_validate(claims | {"exp": claims["iat"] + MOST_GRANT_SECONDS + 1})


reviewer = Agent("reviewer", auth_model=JWTAuth)
helper = Agent("helper", auth_model=JWTAuth)


@reviewer.skill
async def reads(ctx: RunContext[JWTAuth], path: str) -> bool:
    assert isinstance(ctx, LocalRunContext)
    grants = LocalRunScope(ctx).grants
    assert grants.handed_over is not None
    return (await grants.install(grants.handed_over)).allows(path)


@helper.skill
async def idle(ctx: RunContext[JWTAuth]) -> bool:
    assert isinstance(ctx, LocalRunContext)
    return LocalRunScope(ctx).grants.handed_over is None


async def test_a_local_context_hands_a_grant_to_the_run_it_calls() -> None:
    client = InProcessA2AClient([reviewer, helper])
    ctx = LocalRunContext(auth=JWTAuth(sub="ada"), a2a=client)
    grants = LocalRunScope(ctx).grants
    token = await grants.delegate(grants.own("w", READ), Delegation("reviewer", ("src/**",)))
    result = await ctx.call("reviewer", "reads", args={"path": "src/a"}, grant=token)
    assert result.result is True
    assert result.grant_id
    assert (await ctx.call("helper", "idle")).result is True
    with refused("audience"):
        await ctx.call("helper", "idle", grant=token)
    other = LocalRunContext(auth=NoAuth(), a2a=client)
    with pytest.raises(GrantInvalid):
        await other.call("reviewer", "reads", args={"path": "a"}, grant=token)
