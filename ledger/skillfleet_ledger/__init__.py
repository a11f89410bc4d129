"""The ledger: the truth about runs, in Redis.

`Ledger` is the entry point; keys.py documents the keys in Redis, scripts/ changes them.
"""

from skillfleet_ledger.ledger import Ledger
from skillfleet_ledger.settings import Settings

__all__ = ["Ledger", "Settings"]
