"""The committed result of `make mutations` is of today's scripts, and no mutant survives."""

from skillfleet_ledger.redis_client.script_source import source
from tests.mutations.mutants import all_mutants, mutants_of, scripts
from tests.mutations.results import pending, reasons, results
from tests.mutations.suites import SUITES, files
from tests.support.valkey import ValkeyServer

AGAIN = "after a change of a script: make mutations ARGS=--missing"


def test_each_mutant_of_todays_scripts_was_played() -> None:
    mutants = all_mutants()
    missing = {mutant.script for mutant in mutants if mutant.id not in results()}
    assert missing == pending().keys(), AGAIN
    assert results().keys() <= {mutant.id for mutant in mutants}


def test_no_mutant_survives_without_a_reason() -> None:
    survivors = {mutant_id for mutant_id, killer in results().items() if killer is None}
    assert survivors - reasons().keys() == set()


def test_each_reason_is_that_of_a_survivor() -> None:
    todays = {mutant.id for mutant in all_mutants()}
    assert reasons().keys() <= todays
    assert {results().get(name) for name in reasons()} <= {None}


def test_each_mutant_can_be_loaded(valkey: ValkeyServer) -> None:
    """One that is no Lua any more would die whatever the tests are worth."""
    common = scripts()["common"]
    mutants = all_mutants()
    assert len({mutant.id for mutant in mutants}) == len(mutants)
    with valkey.client() as client:
        for mutant in mutants:
            is_common = mutant.script == "common"
            client.script_load(mutant.text if is_common else f"{common}\n{mutant.text}")
        client.script_flush()


def test_each_script_has_mutants_and_tests_that_exist() -> None:
    for name, text in scripts().items():
        assert mutants_of(name, text) or name == "common"
        assert files(name)
    assert SUITES.keys() == scripts().keys()
    assert source("submit")[0].startswith(scripts()["common"])


def test_each_mutant_states_its_change() -> None:
    text = "if r[1] ~= ARGV[2] or r[2] < 5 then return 0 end\nredis.call('SET', K, 1, 'NX')\n"
    found = {mutant.change for mutant in mutants_of("some", text)}
    first, second = (
        "if r[1] ~= ARGV[2] or r[2] < 5 then return 0 end",
        "redis.call('SET', K, 1, 'NX')",
    )
    assert found >= {
        f"{first}  =>  if false then return 0 end",
        f"{first}  =>  if true then return 0 end",
        f"{first}  =>  if r[1] ~= ARGV[2] then return 0 end",
        f"{first}  =>  if r[2] < 5 then return 0 end",
        f"{first}  =>  if r[1] == ARGV[2] or r[2] < 5 then return 0 end",
        f"{first}  =>  if r[1] ~= ARGV[2] or r[2] <= 5 then return 0 end",
        f"{first}  =>  if r[1] ~= ARGV[2] or r[2] < 6 then return 0 end",
        f"{second}  =>  (nothing)",
        f"{second}  =>  redis.call('SET', K, 1)",
        f"{second}  =>  redis.call('SET', K, 2, 'NX')",
    }
