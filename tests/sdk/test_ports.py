"""The ports: abstract, documented as contracts, with values that cannot change."""

import dataclasses
import importlib
import inspect
import pkgutil
from abc import ABC
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from skillfleet import ports

MODULES = [
    importlib.import_module(f"skillfleet.ports.{found.name}")
    for found in pkgutil.iter_modules(ports.__path__)
]
CLASSES = [
    value
    for module in MODULES
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__
]
PORTS = [cls for cls in CLASSES if issubclass(cls, ABC) and not issubclass(cls, BaseSettings)]
VALUES: list[Any] = [cls for cls in CLASSES if dataclasses.is_dataclass(cls)]


def test_every_port_has_its_file() -> None:
    assert [module.__name__.rpartition(".")[2] for module in MODULES] == [
        "a2a",
        "admission",
        "checkpoint",
        "discovery",
        "grants",
        "journal",
        "loading",
        "objects",
        "orchestrator",
        "provider",
        "sandbox",
        "scope",
        "secrets",
        "session",
        "settings",
        "workspace",
    ]


@pytest.mark.parametrize("port", PORTS)
def test_a_port_is_abstract_and_says_how_it_behaves(port: type) -> None:
    assert inspect.isabstract(port)
    assert port.__doc__
    unsaid = [
        name for name, member in vars(port).items() if callable(member) and not member.__doc__
    ]
    assert unsaid == []


@pytest.mark.parametrize(
    "port",
    [port for port in PORTS if port.__name__.endswith(("Client", "Secrets", "Admission", "Scope"))],
)
def test_a_ports_contract_names_concurrency_and_what_is_forbidden(port: type) -> None:
    contract = port.__doc__ or ""
    assert "Concurrency:" in contract
    assert "Forbidden:" in contract or "Cancellation:" in contract


@pytest.mark.parametrize("value", VALUES)
def test_a_ports_values_are_frozen(value: Any) -> None:
    assert value.__dataclass_params__.frozen
    assert value.__doc__
