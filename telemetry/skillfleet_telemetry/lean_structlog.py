"""Import of structlog without rich, which it imports where that is installed.

rich and its dependencies take 4 MiB of every worker, for coloured tracebacks that logs.py switches
off. Code that imports rich itself still gets it.
"""

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
_hidden = "rich" not in _modules
if _hidden:
    # None makes an import of the module fail.
    _modules["rich"] = None
try:
    import structlog
finally:
    if _hidden:
        del _modules["rich"]

__all__ = ["structlog"]
