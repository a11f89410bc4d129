"""An attacker who reaches Redis: it submits runs with any token, message and record."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jwt
import orjson

from skillfleet.contracts import HEADER, TOKEN_HEADER, InvocationHeader, RunStatus, call_digest
from skillfleet.errors import UnknownRunError
from skillfleet_auth.signing import load_private_key
from skillfleet_ledger.runs.records import Submission
from skillfleet_producer import AsyncFleet, AsyncRunHandle, Settings
from skillfleet_producer.message import envelope
from skillfleet_producer.submission import Options, invocation_from
from tests.auth.keys import Keys
from tests.support.waiting import wait_until_async

ADA = {"sub": "ada", "scopes": ["files:read"]}


class TokenFactory:
    """Submits runs past the producer's own checks."""

    def __init__(self, url: str, keys: Keys, **settings: Any) -> None:
        self.keys = keys
        self.fleet = AsyncFleet(settings=Settings.load(redis_url=url, **settings))

    async def prepare(self, task: str, args: Mapping[str, Any]) -> Submission:
        """A run without a token, not yet written."""
        return await self.fleet.enqueuer.prepare(task, args, Options())

    async def submit(self, new: Submission, token: str | None) -> AsyncRunHandle:
        """Write the run with that token and publish it."""
        if token is not None:
            headers = orjson.loads(new.headers) | {TOKEN_HEADER: token}
            new = replace(new, headers=orjson.dumps(headers))
        await self.fleet.ledger.submissions.submit(new, envelope(invocation_from(new)))
        return self.fleet.run(new.id)

    async def submit_as(self, new: Submission, token: str, **fields: Any) -> None:
        """The same, with fields of the record that only a claim would set."""
        headers = orjson.loads(new.headers) | {TOKEN_HEADER: token}
        new = replace(new, headers=orjson.dumps(headers))
        ledger = self.fleet.ledger
        await ledger.submissions.submit(new)
        key = f"{ledger.keys.prefix(new.id)}run:{new.id}"
        flat = [part for pair in fields.items() for part in pair]
        await ledger.connection.execute("HSET", key, *flat)
        queue = ledger.keys.broker_list(new.queue, new.priority)
        await ledger.connection.execute("LPUSH", queue, envelope(invocation_from(new)))

    def claims(self, new: Submission, **changes: Any) -> dict[str, Any]:
        """The claims of a good token for the run, with changes."""
        now = int(time.time())
        good = {
            **ADA,
            "iss": "skillfleet",
            "aud": "skillfleet",
            "iat": now,
            "exp": now + 60,
            "use": "run",
            "run": new.id,
            "call": call_digest(new.task, orjson.loads(new.args)),
        }
        return good | changes

    def token(self, new: Submission, key: str = "backend", **changes: Any) -> str:
        """A token for the run, signed with a key of ours."""
        key_id, private = load_private_key(self.keys.private(key))
        claims = self.claims(new, **changes)
        return jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": key_id})

    async def child(self, parent: AsyncRunHandle, task: str, **changes: Any) -> Submission:
        """A run that claims to have been called by `parent`."""
        new = await self.prepare(task, {})
        header = InvocationHeader(depth=changes.get("depth", 1))
        headers = orjson.dumps({HEADER: header.model_dump(exclude_none=True)})
        new = replace(new, headers=headers, parent_id=parent.id, root_id=parent.id)
        return replace(new, id=self.fleet.ledger.keys.new_id(beside=parent.id))

    async def end_of(self, run: AsyncRunHandle) -> RunStatus:
        """The run's status once it has ended."""

        async def ended() -> RunStatus | None:
            try:
                status = await run.status()
            except UnknownRunError:
                return None
            return status if status.state.terminal else None

        status = await wait_until_async(ended, what=f"the end of {run}")
        assert status is not None
        return status
