"""Versions of an agent: a run with a journal is left to a worker that can continue it."""

from typing import Final

from skillfleet.agent import Agent
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Claim
from skillfleet_worker.attempts.delivery import Delivery

_AGAIN_MS: Final = 500
"""The time after which a run that was left to another worker is delivered again."""
_PATIENCE_MS: Final = 30_000
"""The time for which a run is left to others: they may be busy, or gone without a farewell."""


def versions_of(agent: Agent) -> tuple[str, ...]:
    """Return the versions whose journals this version of the agent can continue."""
    return (agent.version, *agent.compatible_versions)


async def is_left_to_another(ledger: Ledger, delivery: Delivery, claim: Claim) -> bool:
    """Give a run of another version back if a live worker can continue its journal.

    `claim` has that version. False when any worker is to execute the run: no such worker lives, or
    none has taken the run for half a minute.
    """
    version = claim.detail
    is_served = any(
        card.name == delivery.agent
        and version in (card.version, *card.compatible_versions)
        and card.skill(delivery.skill) is not None
        for card in await ledger.directory.agents()
    )
    if not is_served:
        return False
    return await ledger.leases.defer(delivery.run_id, claim.token, _AGAIN_MS, _PATIENCE_MS)
