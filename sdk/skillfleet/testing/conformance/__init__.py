"""Conformance suites: what every runtime and every adapter of a port must do.

There is one module for each port, with a pytest class that an adapter's test subclasses, and
`run_context`, the table that every implementation of `RunContext` must satisfy:

    from skillfleet.testing.conformance import SecretsSuite

    class TestVault(SecretsSuite):
        def source(self, values):
            return VaultSecrets(FakeVault(values))

The suites need pytest and no plugin. The adapters of skillfleet pass the same ones.
"""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from skillfleet._lazy import exported

if find_spec("pytest") is None:
    raise ImportError("skillfleet.testing.conformance needs pytest: pip install pytest")

if "pytest" in sys.modules:
    # Before the suites are imported: their assertions then show the compared values.
    sys.modules["pytest"].register_assert_rewrite(
        *(
            f"{__name__}.{name}"
            for name in (
                *("a2a", "admission", "checkpoint", "discovery", "objects"),
                *("orchestrator", "run_context", "sandbox", "secrets", "workspace"),
            )
        )
    )

if TYPE_CHECKING:
    from skillfleet.testing.conformance.a2a import A2ASuite
    from skillfleet.testing.conformance.admission import AdmissionSuite
    from skillfleet.testing.conformance.checkpoint import CheckpointSuite
    from skillfleet.testing.conformance.discovery import DiscoverySuite
    from skillfleet.testing.conformance.objects import ObjectStoreSuite
    from skillfleet.testing.conformance.orchestrator import OrchestratorSuite
    from skillfleet.testing.conformance.sandbox import SandboxSuite
    from skillfleet.testing.conformance.secrets import SecretsSuite
    from skillfleet.testing.conformance.workspace import WorkspaceSuite
else:
    __getattr__ = exported(
        __name__,
        {
            "A2ASuite": f"{__name__}.a2a",
            "AdmissionSuite": f"{__name__}.admission",
            "CheckpointSuite": f"{__name__}.checkpoint",
            "DiscoverySuite": f"{__name__}.discovery",
            "ObjectStoreSuite": f"{__name__}.objects",
            "OrchestratorSuite": f"{__name__}.orchestrator",
            "SandboxSuite": f"{__name__}.sandbox",
            "SecretsSuite": f"{__name__}.secrets",
            "WorkspaceSuite": f"{__name__}.workspace",
        },
    )

__all__ = [
    "A2ASuite",
    "AdmissionSuite",
    "CheckpointSuite",
    "DiscoverySuite",
    "ObjectStoreSuite",
    "OrchestratorSuite",
    "SandboxSuite",
    "SecretsSuite",
    "WorkspaceSuite",
]
