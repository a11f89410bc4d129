"""Open admission: believes every message, for fleets whose Redis only trusted people reach."""

from collections.abc import Mapping
from typing import Any

from skillfleet.ports.admission import Admission, IncomingCall, IncomingInput
from skillfleet.ports.provider import AdapterEnvironment


class OpenAdmission(Admission):
    """Admits everyone as the caller that the message names."""

    async def admit(self, call: IncomingCall) -> Mapping[str, Any] | None:
        """Return the claims of the message, unchecked."""
        return call.claims

    async def admit_input(self, given: IncomingInput) -> str:
        """Return who says to have given the input, unchecked."""
        return given.by


def create(environment: AdapterEnvironment) -> Admission:
    """Return the admission without tokens."""
    del environment
    return OpenAdmission()
