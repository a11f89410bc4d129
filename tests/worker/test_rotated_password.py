"""A worker whose password is changed under it goes on when that is put right."""

import re

import pytest

from skillfleet.contracts import RunState
from skillfleet_producer import Fleet
from tests.support import acl
from tests.support.fleet import fleet_starter
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.worker.shared import wait_kind


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["prefork"]))
def test_a_run_goes_on_while_its_worker_is_not_let_in(server: ValkeyServer, pool: str) -> None:
    with fleet_starter(server) as start, Fleet(server.url) as fleet, server.client() as admin:
        worker = start("tests.worker.kit", pool=pool)
        run = fleet.enqueue("kit.stream", {"n": 40, "pause": 0.1})
        wait_kind(run, "progress")
        try:
            admin.execute_command("ACL", "SETUSER", acl.WORKER, "resetpass", ">another")
            for kind in ("normal", "pubsub"):
                admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            refusal = re.compile("leases cannot be renewed.*WRONGPASS")
            wait_until(lambda: refusal.search(worker.text()), 60, "the refusal to be logged")
        finally:
            password = acl.password_of(acl.WORKER)
            admin.execute_command("ACL", "SETUSER", acl.WORKER, "resetpass", f">{password}")
        assert run.result(timeout=120) == "done"
        assert fleet.enqueue("kit.add", {"x": 1}).result(timeout=120) == 2
        status = run.status()
        assert (status.state, status.attempt) == (RunState.SUCCEEDED, 1)
        assert len(refusal.findall(worker.text())) <= len(worker.children() or [0])
        admin.execute_command("ACL", "LOG", "RESET")
