"""The client of an attempt, as runtimes open it for a skill."""

from functools import partial
from weakref import ref

from skillfleet.contracts import WaitKind, WorkspaceAccess
from skillfleet.durable.waits import Question, WaitContext, ask
from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.scope import RunScope
from skillfleet.ports.workspace import WorkspaceClient, WorkspaceProvider, workspace_id
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.limits import check_enabled


def open_workspace(
    context: WaitContext,
    provider: WorkspaceProvider,
    scope: RunScope,
    access: WorkspaceAccess | None,
) -> WorkspaceClient:
    """Return the client for a skill with this access; raises `WorkspaceDenied` without any."""
    check_enabled(access or WorkspaceAccess.none())
    known = ref(context)

    async def approve(question: str) -> bool:
        asking = known()
        if asking is None:
            raise WorkspaceDenied("the run has ended")
        answer = await ask(asking, Question(question, schema=bool, kind=WaitKind.GRANT))
        return answer is True

    exchange = Exchange(workspace_id(scope), scope.grants, partial(provider.open, scope))
    attempt = Attempt(
        scope.run_id, scope.attempt, approve, scope.defer, scope.check_lease, exchange
    )
    return StoredWorkspaceClient(provider.open(scope), access or WorkspaceAccess.none(), attempt)
