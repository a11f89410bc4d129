"""What a runtime plugs in: one abstract client a file. Adapters live outside the SDK.

The docstrings are contracts: an adapter that breaks one is wrong, whatever its tests say.
"""
