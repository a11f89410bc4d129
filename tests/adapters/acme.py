"""Installs the third party's adapters in a folder of their own."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from skillfleet.contracts import AgentCard
from skillfleet.testing.conformance.discovery import CARDS
from tests.support.fleet import FleetWorker

ENTRY_POINTS = """\
[skillfleet.secrets]
acme-vault = acme_adapters:create_vault

[skillfleet.discovery]
acme-registry = acme_adapters:create_registry
"""


def install(folder: Path) -> Path:
    """Write the distribution: one file, and the entry points that its metadata names."""
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).parent / "acme_adapters.py", folder)
    metadata = folder / "acme_adapters-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-adapters\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def write_cards(folder: Path, cards: Sequence[AgentCard] = CARDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(cards, key=lambda card: card.name)
    text = ",".join(card.model_dump_json() for card in ordered)
    (folder / "cards.json").write_text(f"[{text}]")


def use_acme(worker: FleetWorker, installed: Path, folder: Path) -> FleetWorker:
    """Let a worker that was not started find and use the adapters."""
    write_cards(folder)
    (folder / "vault.json").write_text('{"acme-key": "ak-0123456789"}')
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    worker._environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "SKILLFLEET_SECRETS_SOURCES": "acme-vault",
        "SKILLFLEET_DISCOVERY": "acme-registry",
        "ACME_VAULT": str(folder / "vault.json"),
        "ACME_REGISTRY": str(folder),
    }
    return worker
