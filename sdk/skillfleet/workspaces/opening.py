"""The client of an attempt, as runtimes open it for a skill."""

from collections.abc import Collection
from functools import partial
from weakref import ref

from skillfleet.contracts import WaitKind, WorkspaceAccess
from skillfleet.durable.journal import journal_of, step_of
from skillfleet.durable.waits import Question, WaitContext, ask
from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.scope import RunScope
from skillfleet.ports.workspace import WorkspaceClient, WorkspaceProvider, workspace_id
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.limits import check_enabled
from skillfleet.workspaces.overlay import RunSteps


def open_workspace(
    context: WaitContext,
    provider: WorkspaceProvider,
    scope: RunScope,
    access: WorkspaceAccess | None,
) -> WorkspaceClient:
    """Return the client for a skill with this access; raises `WorkspaceDenied` without any."""
    check_enabled(access or WorkspaceAccess.none())
    known = ref(context)

    def asking() -> WaitContext:
        found = known()
        if found is None:
            raise WorkspaceDenied("the run has ended")
        return found

    async def approve(question: str) -> bool:
        answer = await ask(asking(), Question(question, schema=bool, kind=WaitKind.GRANT))
        return answer is True

    def current_step() -> str | None:
        found = known()
        return None if found is None else step_of(found)

    async def recorded(steps: Collection[str]) -> set[str]:
        journal = journal_of(asking())
        await journal.load()
        return set(filter(journal.has_entry, steps))

    exchange = Exchange(workspace_id(scope), scope.grants, partial(provider.open, scope))
    attempt = Attempt(
        scope.run_id,
        scope.attempt,
        approve,
        scope.defer,
        scope.check_lease,
        exchange,
        steps=RunSteps(current_step, recorded),
    )
    return StoredWorkspaceClient(provider.open(scope), access or WorkspaceAccess.none(), attempt)
