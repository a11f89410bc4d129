"""An agent of tests/worker/versioned.py."""

from tests.worker.versioned import version_one

agent = version_one()
