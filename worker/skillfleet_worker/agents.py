"""Loading of the agents that a worker serves."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from skillfleet.agent import Agent
from skillfleet.errors import DeclarationError


def find_agents(sources: Iterable[str | Agent]) -> list[Agent]:
    """Return the agents among the sources and in the modules they name, each once, in order.

    A module is named as for an import, or by the path of its file. Raises DeclarationError for
    a module that cannot be found or has no agent, and for two agents of one name.
    """
    agents: dict[str, Agent] = {}
    for source in sources:
        for agent in [source] if isinstance(source, Agent) else _agents_of(load_module(source)):
            known = agents.setdefault(agent.name, agent)
            if known is not agent:
                raise DeclarationError(
                    f"two agents are called {agent.name!r}: give one of them another name"
                )
    return list(agents.values())


def load_module(name: str) -> ModuleType:
    """Import a module by name or by the path of its file; the current folder counts, too."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise DeclarationError(f"there is no file {name!r}")
        _prepend(str(path.resolve().parent))
        name = path.stem
    else:
        _prepend(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise DeclarationError(
                f"there is no module {name!r}: name it as for an import, or by its file"
            ) from None
        raise


def _agents_of(module: ModuleType) -> list[Agent]:
    agents = [value for value in vars(module).values() if isinstance(value, Agent)]
    if not agents:
        raise DeclarationError(
            f"module {module.__name__!r} has no agent: write librarian = Agent('librarian')"
        )
    return agents


def _prepend(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
