"""Entries of a journal that a handler did not ask for: its code differs from that of before."""

import logging
from typing import Any

from skillfleet import RunContext
from skillfleet.agent import Agent
from skillfleet.contracts import ReasonCode
from skillfleet.durable.journal import journal_of, mismatch
from skillfleet_ledger.runs.records import Lease
from skillfleet_worker.attempts.outcomes import Failed, Outcome
from skillfleet_worker.attempts.versions import versions_of

logger = logging.getLogger(__name__)


async def check_unused(
    ctx: RunContext[Any], agent: Agent, lease: Lease, outcome: Outcome
) -> Outcome:
    """Report entries of earlier attempts that a handler which returned has not asked for.

    Returns a failure in place of `outcome` where another version of the agent recorded them, which
    this one does not list as compatible.
    """
    message = mismatch(await journal_of(ctx).unused())
    if message is None:
        return outcome
    logger.warning("run %s: %s", lease.run_id, message)
    await ctx.emit_error(message, code=ReasonCode.JOURNAL_MISMATCH)
    before = lease.version
    if before in ("", *versions_of(agent)):
        return outcome
    return Failed(
        ReasonCode.JOURNAL_MISMATCH,
        f"{message}; version {before} of agent {agent.name!r} recorded them, and version"
        f" {agent.version} does not list it in compatible_versions",
    )
