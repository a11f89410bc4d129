"""Loading of adapters: entry points of the group `skillfleet.<port>`.

A package with an adapter declares, for instance,

    [project.entry-points."skillfleet.secrets"]
    vault = "my_package.vault:create"

and `SKILLFLEET_SECRETS_SOURCES=vault` selects it. `create(environment)` takes an
`AdapterEnvironment` and returns the port's adapter, or None when its settings leave it off. The
adapters of skillfleet itself are registered in the same way.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Generic, TypeVar

from skillfleet.errors import SettingsError
from skillfleet.ports.provider import AdapterEnvironment

AdapterT = TypeVar("AdapterT")

_PREFIX: Final = "skillfleet."


@dataclass(frozen=True)
class Port(Generic[AdapterT]):
    """A port: its name, the class its adapters implement, and the variable that selects one."""

    name: str
    kind: type
    variable: str

    @property
    def group(self) -> str:
        """The group of the port's entry points."""
        return f"{_PREFIX}{self.name}"


def load(port: Port[AdapterT], name: str, environment: AdapterEnvironment) -> AdapterT | None:
    """Create the adapter of that name; None when its settings leave it off.

    Raises SettingsError for an unknown name, which lists the known ones, for an adapter of
    another class or one that cannot be imported or created, and for settings that `create` refuses.
    """
    found = _entry_points().get(port.group, {})
    if name not in found:
        known = ", ".join(sorted(found)) or "none (is skillfleet installed?)"
        raise SettingsError(
            f"{port.variable}: there is no {port.name} adapter {name!r}; known are: {known}"
        )
    adapter = _create(port, found[name], environment)
    right: bool = adapter is None or isinstance(adapter, port.kind)
    if not right:
        raise SettingsError(
            f"{port.variable}: {name!r} creates a {type(adapter).__name__}, not a"
            f" {port.kind.__module__}.{port.kind.__qualname__}"
        )
    created: AdapterT | None = adapter
    return created


def _create(port: Port[AdapterT], found: EntryPoint, environment: AdapterEnvironment) -> Any:
    try:
        return found.load()(environment)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{port.variable}: the {port.name} adapter {found.name!r} ({found.value}) cannot be"
            f" created: {type(error).__name__}: {error}"
        ) from error


def names_of(variable: str) -> tuple[str, ...]:
    """Return the names in a setting that lists adapters, separated by commas."""
    return tuple(name for each in variable.split(",") if (name := each.strip()))


@cache
def _entry_points() -> dict[str, dict[str, EntryPoint]]:
    """Return the entry points of all ports by group and name; cached, as reading them is slow."""
    found = entry_points()
    return {
        group: {each.name: each for each in found.select(group=group)}
        for group in found.groups
        if group.startswith(_PREFIX)
    }
