"""An agent's published data is JSON, or its declaration is refused."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import jsonschema_rs
import orjson
import pytest
from pydantic import AliasChoices, BaseModel, Field, StringConstraints
from pydantic.dataclasses import dataclass as checked_dataclass

from skillfleet import Agent, RunContext
from skillfleet.contracts import AgentCard
from skillfleet.errors import DeclarationError
from skillfleet.skills.skill import Skill


def declared(hint: Any = int, returns: Any = None, **options: Any) -> Skill[..., Any]:
    """A skill with one argument and a result of these types."""

    async def odd(ctx: RunContext, n: Any) -> Any: ...

    odd.__annotations__ |= {"n": hint, "return": returns}
    declare: Any = Agent("odd").skill(**options)
    skill: Skill[..., Any] = declare(odd)
    return skill


class Big(BaseModel):
    n: int = Field(le=10**30)


def with_a_set(schema: dict[str, Any]) -> None:
    schema["x"] = {1, 2}


class Described(BaseModel):
    n: int = Field(description="caf\udce9")


@pytest.mark.parametrize(
    ("hint", "where"),
    [
        (Annotated[int, Field(lt=2**64)], "exclusiveMaximum"),
        (Annotated[int, Field(ge=-(2**70))], "minimum"),
        (list[Big], r"\$defs.Big.properties.n.maximum"),
        (Described, r"properties.n.description"),
        (Annotated[int, Field(json_schema_extra=with_a_set)], "x of its schema"),
        (Annotated[int, Field(examples=[b"\xff"])], "write|use plain types"),
        (Annotated[int, Field(examples=[object()])], "write|use plain types"),
        (Annotated[int, Field(examples=[math.nan])], "examples.0"),
    ],
)
def test_a_schema_that_json_cannot_carry_is_refused(hint: Any, where: str) -> None:
    for given in ({"hint": hint}, {"returns": hint}):
        with pytest.raises(DeclarationError, match=where) as caught:
            declared(**given)
        assert "skill odd.odd" in str(caught.value)
        orjson.dumps(str(caught.value))


def test_a_pattern_that_cannot_be_checked_is_refused() -> None:
    hint = Annotated[str, Field(json_schema_extra={"pattern": r"(?P<x>a)(?P=x)"})]
    with pytest.raises(DeclarationError, match=r"odd\.odd: its arguments cannot be checked"):
        declared(hint)
    assert declared(Annotated[str, StringConstraints(pattern="^a+$")]).spec.input_schema


@pytest.mark.parametrize(
    "options",
    [
        {"description": "\ud800"},
        {"description": 5},
        {"tags": ("\ud800",)},
        {"scopes": ("\ud800",)},
        {"secrets": ("\ud800",)},
        {"tags": 5},
    ],
    ids=["surrogate", "number", "tag", "scope", "secret", "no tags"],
)
def test_words_that_cannot_be_published_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(DeclarationError, match=f"odd: {name}|odd.odd: {name}"):
        declared(**options)
    if name in ("description", "tags"):
        with pytest.raises(DeclarationError, match=f"agent odd: {name}"):
            Agent("odd", **options)
    with pytest.raises(DeclarationError, match="agent odd: version"):
        Agent("odd", version="\ud800")


class Preset(BaseModel):
    limit: float = math.inf
    big: int = 2**70
    separator: str = "\udcff"
    count: int = 3


@dataclass
class Plain:
    limit: float = math.nan


agent = Agent("preset")


@agent.skill
async def preset(
    ctx: RunContext,
    *,
    big: int = 2**70,
    limit: float = math.inf,
    none: float = math.nan,
    separator: str = "\udcff",
    raw: bytes = b"\xff",
    options: Preset = Preset(),  # noqa: B008 - as people write it
    plain: Plain = Plain(),  # noqa: B008
    count: int = 3,
) -> Preset:
    return options


def test_defaults_without_a_json_form_are_used_but_not_published() -> None:
    schema = preset.spec.input_schema
    published = {name for name, each in schema["properties"].items() if "default" in each}
    assert published == {"count"}
    for each in (schema, preset.spec.output_schema | {"$defs": {}}):
        orjson.dumps(each)
    defaults = schema["$defs"]["Preset"]["properties"]
    assert {name for name, each in defaults.items() if "default" in each} == {"count"}
    assert preset.bind({}) == {}
    assert preset.bind({"options": {}})["options"].limit == math.inf


def test_a_card_reads_back_as_it_was_published() -> None:
    card = agent.card("q")
    assert AgentCard.model_validate_json(card.model_dump_json()) == card
    assert orjson.loads(orjson.dumps(card.model_dump(mode="json"))) == card.model_dump(mode="json")


class Address(BaseModel):
    zip_code: str = Field(alias="zipCode")


class User(BaseModel):
    user_id: int = Field(alias="userId")
    home: Address
    others: list[Address] = Field(default=[], serialization_alias="otherHomes")
    named: str = Field(default="", validation_alias=AliasChoices("n", "named"))
    score: Decimal = Decimal("1.5")


@checked_dataclass
class Size:
    width: int = Field(alias="w")


@pytest.mark.parametrize(
    ("returns", "value", "sent"),
    [
        (
            User,
            User(userId=1, home=Address(zipCode="1"), others=[Address(zipCode="2")]),
            {
                "userId": 1,
                "home": {"zipCode": "1"},
                "otherHomes": [{"zipCode": "2"}],
                "named": "",
                "score": "1.5",
            },
        ),
        (list[Address], [{"zipCode": "1"}], [{"zipCode": "1"}]),
        (dict[str, Size], {"a": Size(w=1)}, {"a": {"w": 1}}),
        (Any, Address(zipCode="1"), {"zipCode": "1"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_results_have_the_names_of_their_published_schema(
    returns: Any, value: Any, sent: Any
) -> None:
    skill = declared(returns=returns)
    assert skill.dump(value) == sent
    # No other names are published, and all that are required are sent.
    schema = skill.spec.output_schema | {"unevaluatedProperties": returns is Any}
    jsonschema_rs.Draft202012Validator(schema).validate(sent)
