"""Sources of secrets that other packages bring along, such as a keyring or a vault's agent.

A package declares `[project.entry-points."skillfleet.secrets"]` with `name = "module:Source"`:
a class or function without arguments that gives a `skillfleet.ports.secrets.Secrets`.
"""

from importlib.metadata import entry_points
from typing import Final

from skillfleet.errors import SettingsError
from skillfleet.ports.secrets import Secrets

GROUP: Final = "skillfleet.secrets"


def load_source(name: str) -> Secrets:
    """The source of that entry point; raises SettingsError, which names those there are."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted({"files", "environment", *found.names}))
        raise SettingsError(
            f"SKILLFLEET_SECRETS_SOURCES: there is no source {name!r}; known are: {known}"
        )
    source = found[name].load()()
    if not isinstance(source, Secrets):
        raise SettingsError(
            f"SKILLFLEET_SECRETS_SOURCES: {name!r} gives a {type(source).__name__}, not a"
            " skillfleet.ports.secrets.Secrets"
        )
    return source
