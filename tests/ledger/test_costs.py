"""The costs of a run in Redis: commands from submission to result, and keys."""

from skillfleet_ledger import Ledger
from tests.ledger.helpers import DONE, claimed, submission, submitted
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


async def test_the_record_of_a_running_run_is_stored_compactly(ledger: Ledger) -> None:
    """Redis packs a hash whose values have up to 64 bytes; others take twice the memory."""
    new = await submitted(ledger)
    await claimed(ledger, new.id, worker="a-name-of-40-characters-as-a-pod-has:123")
    record = f"{ledger.keys.prefix(new.id)}run:{new.id}"
    encoding = await ledger.connection.execute("OBJECT", "ENCODING", record)
    assert encoding == b"listpack"
