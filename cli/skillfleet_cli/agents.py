"""List of the fleet's agents, as their workers published them."""

from typing import Any

from skillfleet.contracts import SkillCard
from skillfleet_cli.output import Listing, console, print_json, styled
from skillfleet_producer import AsyncFleet


async def list_agents(fleet: AsyncFleet, *, as_json: bool) -> None:
    """Print the cards of all live agents."""
    cards = await fleet.agents()
    if as_json:
        print_json(cards)
        return
    if not cards:
        hint = "no live worker serves an agent; start one with `skillfleet worker MODULE`"
        console(stderr=True).print(hint)
        return
    listed = Listing("SKILL", "VERSION", "QUEUE", "ARGUMENTS", "DESCRIPTION")
    for card in cards:
        for skill in card.skills:
            listed.add(
                styled((f"{card.name}.{skill.name}", "bold")),
                card.version,
                card.queue,
                _arguments(skill),
                skill.description.partition("\n")[0],
            )
    listed.print()


def _arguments(skill: SkillCard) -> str:
    """Return the argument names; those with a default in brackets."""
    schema: dict[str, Any] = skill.input_schema
    required, names = schema.get("required"), schema.get("properties")
    needed = required if isinstance(required, list) else ()
    shown = names if isinstance(names, dict) else ()
    return " ".join(name if name in needed else f"[{name}]" for name in shown)
