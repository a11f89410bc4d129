"""The verbs, one module a subject. Each loads its work only when it runs (see main.py)."""
