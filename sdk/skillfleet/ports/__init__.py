"""The ports: one file each, with its contract, values, client and provider.

Adapters implement a port outside of the SDK. The docstrings are contracts: an adapter that
breaks one is wrong, whatever its tests say; `skillfleet.testing.conformance` has a suite for
each port. `scope.py` and `provider.py` are what all ports share; `loading.py` finds adapters by
their entry points.
"""
