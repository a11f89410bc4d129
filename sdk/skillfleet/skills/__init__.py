"""Declaring skills: the decorator, what it reads from a signature, and schemas."""
