"""Tags: what a run may be tagged with, and the message for everything else."""

from typing import Any

import pytest

from skillfleet.auth import JWTAuth, claims_for_call
from skillfleet.errors import InvalidArgumentsError
from skillfleet.tags import MOST_TAGS, check_tags


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"tenant": "acme"},
        {"a": "x" * 128, "k" * 64: "1"},
        {"A.b_c-9": "Zürich, Straße 1 = | 2"},
        {f"key{n}": "v" for n in range(MOST_TAGS)},
    ],
)
def test_short_strings_by_name_are_tags(tags: dict[str, str]) -> None:
    assert check_tags(tags) == tags


def test_no_tags_are_an_empty_mapping_and_the_callers_own_is_copied() -> None:
    tags = {"tenant": "acme"}
    checked = check_tags(tags)
    tags["tenant"] = "umbrella"
    assert (check_tags(None), checked) == ({}, {"tenant": "acme"})


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (["tenant"], "tags must be strings by name, not list"),
        ({f"key{n}": "v" for n in range(17)}, "at most 16 are allowed, not 17"),
        ({"": "x"}, "the key '' must have 1 to 64"),
        ({"9a": "x"}, "the key '9a' must .* begin with a letter"),
        ({"a=b": "x"}, "the key 'a=b' must"),
        ({"k" * 65: "x"}, "must have 1 to 64"),
        ({1: "x"}, "the key 1 must"),
        ({"\ud800": "x"}, "the key"),
        ({"plan": 7}, "the value of 'plan' must be a string, not int"),
        ({"plan": ""}, "the value of 'plan' must have 1 to 128 characters, not 0"),
        ({"plan": "x" * 129}, "the value of 'plan' must have 1 to 128 characters, not 129"),
        ({"plan": "a\nb"}, "the value of 'plan' holds characters that are not printable"),
        ({"plan": "\ud800"}, "the value of 'plan' holds characters that are not printable"),
    ],
)
def test_everything_else_is_refused_with_its_key(tags: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentsError, match=words) as refused:
        check_tags(tags)
    str(refused.value).encode()


def test_the_claim_of_the_tenant_goes_along_with_a_call() -> None:
    claims = {"sub": "ada", "org": "acme", "more": 1}
    auth = JWTAuth(sub="ada")
    assert claims_for_call(claims, auth) == {"sub": "ada"}
    assert claims_for_call(claims, auth, "org") == {"sub": "ada", "org": "acme"}
