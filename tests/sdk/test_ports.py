"""The ports: abstract, documented as contracts, with values that cannot change."""

import dataclasses
import importlib
import inspect
import pkgutil
from abc import ABC
from typing import Any

import pytest

from skillfleet import ports
from skillfleet.ports.sandbox import ExecResult, SandboxSpec

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
PORTS = [cls for cls in CLASSES if issubclass(cls, ABC)]
VALUES: list[Any] = [cls for cls in CLASSES if dataclasses.is_dataclass(cls)]


def test_every_port_has_its_file() -> None:
    assert [module.__name__.rpartition(".")[2] for module in MODULES] == [
        "a2a",
        "artifacts",
        "checkpoint",
        "discovery",
        "harness",
        "sandbox",
        "secrets",
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
    "port", [port for port in PORTS if port.__name__.endswith(("Client", "Harness", "Secrets"))]
)
def test_a_clients_contract_names_concurrency_and_what_is_forbidden(port: type) -> None:
    contract = port.__doc__ or ""
    assert "Concurrency:" in contract
    assert "Forbidden:" in contract or "Cancellation:" in contract


@pytest.mark.parametrize("value", VALUES)
def test_a_ports_values_are_frozen(value: Any) -> None:
    assert value.__dataclass_params__.frozen
    assert value.__doc__


def test_a_command_is_fine_when_it_exits_with_zero() -> None:
    assert ExecResult("a", "b").ok
    assert ExecResult("a", "b").output == "ab"
    assert not ExecResult("", exit_code=1).ok


def test_a_sandbox_reaches_nothing_unless_told() -> None:
    assert SandboxSpec("s").egress == ()
