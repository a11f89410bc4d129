"""Admission of inputs: who gave an answer or a message to a run, and whether they may."""

from dataclasses import replace

import orjson

from skillfleet.contracts.waits import WaitOutcome
from skillfleet.ports.admission import Admission, IncomingInput, InputKind
from skillfleet.ports.journal import Decision, WaitSpec
from skillfleet_ledger.runs.inbox import InboxMessage

_KINDS = {
    WaitOutcome.ANSWERED: InputKind.ANSWER,
    WaitOutcome.REJECTED: InputKind.REJECTION,
}


async def admit_decision(
    admission: Admission, run_id: str, wait_id: str, spec: WaitSpec, decision: Decision
) -> Decision:
    """Return a decision with the name of who gave it, as it is to be believed.

    Raises UnauthorizedError, MissingScopes, or ValueError for a value that is not JSON.
    """
    kind = _KINDS.get(decision.outcome)
    if kind is None:
        return decision
    value = decision.reason if kind is InputKind.REJECTION else orjson.loads(decision.value)
    given = IncomingInput(
        run_id=run_id,
        wait_id=wait_id,
        kind=kind,
        value=value,
        by=decision.by,
        token=decision.token or None,
        scopes=spec.scopes,
    )
    return replace(decision, by=await admission.admit_input(given))


async def admit_message(admission: Admission, run_id: str, message: InboxMessage) -> None:
    """Raise UnauthorizedError, MissingScopes or ValueError for a message that is not to be used."""
    given = IncomingInput(
        run_id=run_id,
        wait_id="",
        kind=InputKind.MESSAGE,
        value=orjson.loads(message.value),
        by=message.by,
        token=message.token or None,
    )
    await admission.admit_input(given)
