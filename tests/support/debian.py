"""Programs that come from Debian packages and that only some machines have."""

import os
import shutil
from pathlib import Path

import pytest

# Where Debian puts servers; not on every user's PATH.
_SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin")


def require_binary(name: str, package: str) -> Path:
    """The path of the program `name` of the Debian package `package`.

    Where it is missing the test is skipped, with the reason; in CI (`CI=true`, as `.ci/run`
    sets it) the test fails instead, so that nothing goes untested unseen.
    """
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SERVER_FOLDERS))
    found = shutil.which(name, path=folders)
    if found is not None:
        return Path(found)
    reason = f"needs {name}: apt install {package}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{reason} (CI must have it, see .ci/run)", pytrace=False)
    pytest.skip(reason)
