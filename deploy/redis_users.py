"""Write deploy/redis/users.acl: the chart's Redis users for the default namespace and queue.

`python -m deploy.redis_users` writes the file, `--check` only compares. `--namespace` and `--queue`
print the users of another fleet instead. Needs helm-python-sdk and PyYAML.
"""

import argparse
import sys
from pathlib import Path

from deploy.generated import write_or_check
from deploy.render import ROOT, render_chart

USERS = ROOT / "redis" / "users.acl"
NAMESPACE, QUEUE = "skillfleet", "celery"


def users(namespace: str, queues: list[str]) -> str:
    """Return the users as an ACL file without passwords, one per line.

    Raises helm_python's HelmError for a namespace or queue that the chart refuses.
    """
    first, *_ = queues
    values = {
        "valkey": {"enabled": True},
        "settings": {"namespace": namespace, "defaultQueue": first},
        "workers": [{"name": "all", "queues": queues}],
    }
    manifests = render_chart(values, "skillfleet", "default")
    (text,) = (m["data"]["users.acl"] for m in manifests if "users.acl" in m.get("data", {}))
    lines = [line for line in text.splitlines() if not line.startswith("user default ")]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="The chart's Redis users as an ACL file.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    parser.add_argument("--namespace", help="print the users of this namespace")
    parser.add_argument("--queue", action="append", help="print the users for these queues")
    options = parser.parse_args(arguments)
    if options.namespace or options.queue:
        print(users(options.namespace or NAMESPACE, options.queue or [QUEUE]), end="")
        return 0
    files: dict[Path, str] = {USERS: users(NAMESPACE, [QUEUE])}
    return write_or_check(files, check=options.check, command="python -m deploy.redis_users")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
