"""The kind `auto`: the strongest sandbox that works, with the reasons against the others."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from skillfleet.errors import SandboxUnavailable
from skillfleet.hidden_state import HiddenState
from skillfleet.ports.provider import AdapterEnvironment, HoldsLease
from skillfleet.ports.sandbox import (
    DEFAULT_IMAGE,
    ExecResult,
    SandboxClient,
    SandboxHandle,
    SandboxProvider,
    SandboxSpec,
)
from skillfleet.ports.scope import RunScope
from skillfleet_adapters.sandbox import microsandbox
from skillfleet_adapters.sandbox.kubernetes.settings import KubernetesSandboxSettings
from skillfleet_adapters.sandbox.provider import create_local

logger = logging.getLogger(__name__)


class StrongestProvider(SandboxProvider):
    """The first of several providers that works; it is kept once it was found."""

    def __init__(self, candidates: Sequence[SandboxProvider]) -> None:
        self._candidates = tuple(candidates)
        self._chosen: SandboxProvider | None = None
        self._reported = False

    def open(self, scope: RunScope) -> SandboxClient:
        """Return a client of the chosen kind, which is chosen at its first sandbox."""
        return _Chosen.open(self, scope)

    async def chosen(self) -> SandboxProvider:
        """Return the provider that works; logs which and why. On the home loop."""
        if self._chosen is None:
            self._chosen, report = await self._choose()
            logger.info("sandboxes: %s", report)
        return self._chosen

    async def report(self) -> str:
        """Return the choice and the reasons against the others; raises SandboxUnavailable."""
        return (await self._choose())[1]

    async def _choose(self) -> tuple[SandboxProvider, str]:
        problems: list[str] = []
        for candidate in self._candidates:
            try:
                report = await candidate.report()
            except SandboxUnavailable as error:
                problems.append(str(error))
                continue
            stronger = f" (stronger ones do not work: {'; '.join(problems)})" if problems else ""
            return candidate, report + stronger
        raise SandboxUnavailable(f"no sandbox works here: {'; '.join(problems)}")

    async def reap(self, holds_lease: HoldsLease) -> None:
        """Reap with each provider: a worker before may have chosen another."""
        if not self._reported:
            self._reported = True
            try:
                await self.chosen()
            except SandboxUnavailable as error:
                logger.warning("sandboxes: %s", error)
        for candidate in self._candidates:
            await candidate.reap(holds_lease)

    async def aclose(self) -> None:
        """Close all providers."""
        for candidate in self._candidates:
            await candidate.aclose()


@dataclass
class _State:
    provider: StrongestProvider
    scope: RunScope
    client: SandboxClient | None = None

    async def chosen(self) -> SandboxClient:
        if self.client is None:
            provider = await self.scope.on_home_loop(self.provider.chosen())
            # Another sandbox of the attempt may have come first.
            self.client = self.client or provider.open(self.scope)
        return self.client


_states: Final[HiddenState[_State]] = HiddenState()


class _Chosen(SandboxClient):
    """The client of the kind that is chosen when the first sandbox is needed."""

    @classmethod
    def open(cls, provider: StrongestProvider, scope: RunScope) -> Self:
        """Return the client of one attempt."""
        client = cls()
        _states.attach(client, _State(provider, scope))
        return client

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """See `SandboxClient.create`."""
        return await (await _states.of(self).chosen()).create(spec)

    async def get(self, name: str) -> SandboxHandle:
        """See `SandboxClient.get`."""
        return await (await _states.of(self).chosen()).get(name)

    async def list(self) -> Sequence[str]:
        """See `SandboxClient.list`."""
        return await (await _states.of(self).chosen()).list()

    async def remove(self, name: str) -> None:
        """See `SandboxClient.remove`."""
        await (await _states.of(self).chosen()).remove(name)

    async def run_python(
        self,
        code: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """See `SandboxClient.run_python`."""
        return await (await _states.of(self).chosen()).run_python(code, image, timeout=timeout)

    async def run_shell(
        self,
        script: str,
        image: str = DEFAULT_IMAGE,
        *,
        timeout: float | None = None,
    ) -> ExecResult:
        """See `SandboxClient.run_shell`."""
        return await (await _states.of(self).chosen()).run_shell(script, image, timeout=timeout)


def create(environment: AdapterEnvironment) -> SandboxProvider:
    """Return the provider of `auto`.

    Kubernetes is considered where its settings ask for it, and microsandbox where it is installed.
    """
    local = create_local(environment)
    stronger: list[SandboxProvider] = []
    if KubernetesSandboxSettings.load(environment.variables).wanted:
        # Only here, as it needs the extra `kubernetes`.
        from skillfleet_adapters.sandbox.kubernetes import provider  # noqa: PLC0415

        stronger.append(provider.create(environment))
    if microsandbox.is_installed():
        stronger.append(microsandbox.create(environment))
    return StrongestProvider([*stronger, local]) if stronger else local
