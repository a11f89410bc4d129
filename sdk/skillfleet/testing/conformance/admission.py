"""Conformance of admissions."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from skillfleet.errors import MissingScopes, UnauthorizedError
from skillfleet.ports.admission import Admission, IncomingCall, IncomingInput


@dataclass(frozen=True)
class AdmissionCases:
    """An admission, and calls and inputs that it has to admit or to refuse."""

    admission: Admission
    admitted: IncomingCall
    claims: Mapping[str, Any] | None
    """The claims of the admitted call's caller, as they are to be believed."""
    admitted_input: IncomingInput
    giver: str
    """Who gave the admitted input, as it is to be believed."""
    refused: Mapping[str, IncomingCall] = field(default_factory=dict)
    """Calls of new runs to refuse, by what is wrong with them."""
    refused_inputs: Mapping[str, IncomingInput] = field(default_factory=dict)
    """Inputs to refuse, by what is wrong with them."""


class AdmissionSuite(ABC):
    """Subclass it as `Test...` and implement `cases`."""

    @abstractmethod
    def cases(self) -> AbstractAsyncContextManager[AdmissionCases]:
        """Return the admission under test, and its cases."""

    def test_admits_with_the_callers_claims(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                assert await cases.admission.admit(cases.admitted) == cases.claims

        asyncio.run(main())

    def test_admits_any_number_at_once(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                admitted = [cases.admission.admit(cases.admitted) for _ in range(20)]
                assert await asyncio.gather(*admitted) == [cases.claims] * 20

        asyncio.run(main())

    def test_refuses_with_an_error_that_shows_neither_token_nor_claims(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                if not cases.refused:
                    pytest.skip("this admission refuses no new run")
                for what, call in cases.refused.items():
                    with pytest.raises(UnauthorizedError) as refused:
                        await cases.admission.admit(call)
                    message = str(refused.value)
                    assert not call.token or call.token not in message, what
                    shown = [each for each in (call.claims or {}).values() if str(each) in message]
                    assert not shown, what

        asyncio.run(main())

    def test_admits_an_input_with_the_one_who_gave_it(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                admitted = await cases.admission.admit_input(cases.admitted_input)
                assert admitted == cases.giver

        asyncio.run(main())

    def test_refuses_an_input_with_an_error_that_does_not_show_its_token(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                if not cases.refused_inputs:
                    pytest.skip("this admission refuses no input")
                for what, given in cases.refused_inputs.items():
                    with pytest.raises((UnauthorizedError, MissingScopes)) as refused:
                        await cases.admission.admit_input(given)
                    assert not given.token or given.token not in str(refused.value), what

        asyncio.run(main())

    def test_calls_and_inputs_do_not_show_their_tokens(self) -> None:
        async def main() -> None:
            async with self.cases() as cases:
                token = cases.admitted.token
                assert token is None or token not in repr(cases.admitted)
                token = cases.admitted_input.token
                assert token is None or token not in repr(cases.admitted_input)

        asyncio.run(main())
