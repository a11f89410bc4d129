"""An agent of tests/worker/versioned.py."""

from tests.worker.versioned import version_two

agent = version_two()
