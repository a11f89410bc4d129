"""`skillfleet schedules`: made, listed, paused, run and removed at the command line."""

import pytest

from tests.cli.commands import Shell

pytestmark = pytest.mark.xdist_group("cli")


def test_a_schedule_from_its_making_to_its_removal(shell: Shell) -> None:
    times = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    made = shell.ok("schedules", "add", "nightly", "kit.add", "--arg", "x=1", *times)
    assert made.out.startswith("nightly is next due 2")
    listed = shell.ok("schedules", "list").out
    assert "nightly  kit.add  30 2 * * * Europe/Berlin  2" in listed
    (shown,) = [s for s in shell.ok("schedules", "list", "--json").json if s["name"] == "nightly"]
    assert (shown["args"], shown["overlap"], shown["catch_up"]) == ({"x": 1}, "skip", 0)
    dates = shell.ok("schedules", "next", "nightly").out.splitlines()
    assert dates[0].split() == ["EUROPE/BERLIN", "LOCAL"]
    assert len(dates) == 6
    assert all(" 02:30:00  " in line or " 03:00:00  " in line for line in dates[1:])
    found = shell.ok("schedules", "next", "nightly", "-n", "2", "--json").json
    assert found["times"][0] == shown["next_at"]
    assert shell.ok("schedules", "pause", "nightly").out == "nightly is paused\n"
    assert "paused" in shell.ok("schedules", "list").out
    assert not shell.ok("schedules", "resume", "nightly", "--json").json["paused"]
    run = shell.ok("schedules", "run", "nightly").out.strip()
    assert shell.ok("status", run, "--json").json["skill"] == "add"
    again = shell.ok("schedules", "run", "nightly", "--json").json
    assert again["schedule"] == "nightly"
    assert again["id"] != run
    assert shell.ok("schedules", "remove", "nightly").out == "nightly removed\n"


def test_all_options_are_taken(shell: Shell) -> None:
    options = ("--every", "7200", "--overlap", "queue", "--catch-up", "3", "--timeout", "60")
    caller = ("--subject", "ada", "--scope", "survey", "--priority", "3", "--queue", "celery")
    aside = ("--tag", "team=red", "--session", "chat", "--json")
    made = shell.ok(
        "schedules", "add", "all", "kit.add", '{"x": 1}', *options, *caller, *aside, "--json"
    )
    assert (made.json["every"], made.json["overlap"], made.json["catch_up"]) == (7200, "queue", 3)
    assert (made.json["tags"], made.json["session"]) == ({"team": "red"}, "chat")
    assert "every 2 h 0 min" in shell.ok("schedules", "list").out
    assert shell.ok("schedules", "remove", "all", "--json").json == {"name": "all", "removed": True}


def test_what_is_wrong_is_reported_in_one_line(shell: Shell) -> None:
    for arguments, problem in (
        (("add", "x", "kit.add", "--arg", "x=1", "--cron", "61 * * * *"), "cron: '61 * * * *'"),
        (("add", "x", "kit.add", "--arg", "x=1"), "either cron or every"),
        (("add", "x", "kit.add", "--arg", "x=no", "--every", "60"), "x"),
        (("add", "x", "kit.add", "--arg", "x=1", "--every", "60", "--overlap", "no"), "overlap"),
        (("pause", "missing"), "there is no schedule 'missing'"),
        (("remove", "missing"), "there is no schedule 'missing'"),
        (("next", "missing"), "there is no schedule 'missing'"),
    ):
        ended = shell.run("schedules", *arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert problem in ended.err
        assert ended.err.count("\n") == 1


def test_an_empty_fleet_has_none(bare: Shell) -> None:
    listed = bare.ok("schedules", "list")
    assert (listed.out, listed.err) == ("", "no schedules\n")
    assert bare.ok("schedules", "list", "--json").json == []
