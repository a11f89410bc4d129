"""The unkillable agent: model calls as steps, while the worker is killed again and again."""
