"""The costs of a run in Redis: commands from submission to result, and keys."""

from skillfleet_ledger import Ledger
from tests.ledger.helpers import DONE, claimed, submission
from tests.support.valkey import ValkeyServer

MOST_COMMANDS = 27
"""Those inside scripts, and the calls of the three scripts."""


async def test_a_run_takes_few_commands_from_submission_to_result(
    valkey: ValkeyServer, ledger: Ledger
) -> None:
    async def one_run() -> None:
        new = submission()
        await ledger.submissions.submit(new, b"message")
        lease = await claimed(ledger, new.id)
        await ledger.leases.settle(lease, new.task, lease.seq, DONE)

    await one_run()  # it loads the scripts
    with valkey.client() as client:
        client.config_resetstat()
        await one_run()
        stats = client.info("commandstats")
    calls = {name: each["calls"] for name, each in stats.items() if "config" not in name}
    assert sum(calls.values()) <= MOST_COMMANDS, calls
