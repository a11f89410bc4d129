"""Definitions of the commands, one module per noun.

The work of each is in the module (or package) of the same noun one level up, loaded only when the
command runs (see main.py).
"""
