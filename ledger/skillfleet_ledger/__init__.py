"""The ledger: the truth about runs, in Redis.

`Ledger` is the door; keys.py documents what lies in Redis, scripts/ how it changes.
"""

from skillfleet_ledger.ledger import Ledger
from skillfleet_ledger.settings import Settings

__all__ = ["Ledger", "Settings"]
