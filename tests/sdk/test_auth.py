"""Building an agent's auth model from claims, and narrowing it for a callee."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from skillfleet import APIKeyAuth, JWTAuth, LocalRunContext, MissingScopes, NoAuth
from skillfleet.auth import auth_from_claims, narrowed_auth, scopes_of
from skillfleet.errors import UnauthorizedError

words = st.frozensets(st.sampled_from(["a", "b", "c", "d"]))


class ScopesInSet(BaseModel):
    scopes: frozenset[str] = frozenset({"a", "b", "c", "d"})


def test_claims_that_a_model_does_not_know_are_ignored() -> None:
    claims = {"sub": "ada", "scopes": ["read"], "exp": 1}
    assert auth_from_claims(JWTAuth, claims) == JWTAuth(sub="ada", scopes=("read",))
    assert auth_from_claims(NoAuth, claims) == NoAuth()


def test_a_caller_without_claims_is_anonymous() -> None:
    assert auth_from_claims(NoAuth, None) == NoAuth()
    with pytest.raises(UnauthorizedError, match="do not fit APIKeyAuth: api_key_id"):
        auth_from_claims(APIKeyAuth, None)


def test_a_refusal_names_the_claims_but_not_their_values() -> None:
    with pytest.raises(UnauthorizedError, match="JWTAuth: email, sub") as caught:
        auth_from_claims(JWTAuth, {"sub": 7, "email": ["hunter2"]})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_scopes_in_one_string_are_refused_not_taken_apart() -> None:
    with pytest.raises(UnauthorizedError, match="scopes"):
        auth_from_claims(APIKeyAuth, {"api_key_id": "k", "scopes": "read write"})


@given(words, words)
def test_all_required_scopes_must_be_there(held: frozenset[str], required: frozenset[str]) -> None:
    ctx = LocalRunContext(auth=APIKeyAuth(api_key_id="k", scopes=tuple(held)))
    if required <= held:
        ctx.require_scopes(sorted(required))
    else:
        with pytest.raises(MissingScopes) as caught:
            ctx.require_scopes(sorted(required))
        assert caught.value.missing == tuple(sorted(required - held))


def test_a_caller_without_scopes_lacks_all() -> None:
    with pytest.raises(MissingScopes):
        LocalRunContext(auth=NoAuth()).require_scopes(["read"])


@given(words)
def test_a_callee_gets_at_most_its_callers_scopes(held: frozenset[str]) -> None:
    auth = narrowed_auth(ScopesInSet, APIKeyAuth(api_key_id="k", scopes=tuple(held)))
    assert auth.scopes == held
    assert scopes_of(narrowed_auth(ScopesInSet, NoAuth())) == frozenset()
