"""A walk over everything that can be reached from an object by following attributes."""

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import ReferenceType

_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType)


def reachable(start: Any) -> Iterator[tuple[str, Any]]:
    """Yield every object behind `start`, with the path to it; private attributes included.

    Follows `__dict__`, `__slots__`, containers, bound methods, partials, closures, and weak
    references with their callbacks. It does not follow classes, modules and the globals of
    functions: those are the process's.
    """
    seen: set[int] = set()
    waiting = [("", start)]
    kept = []
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, _LEAVES) or id(found) in seen:
            continue
        seen.add(id(found))
        kept.append(found)  # an id is only unique as long as its object lives
        yield path, found
        waiting += [(f"{path}{step}", value) for step, value in _parts(found)]


def _parts(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield f"[{key!r}]", value
            yield ".key", key
    elif isinstance(found, list | tuple | set | frozenset):
        for index, value in enumerate(found):
            yield f"[{index}]", value
    if isinstance(found, types.MethodType):
        yield ".__self__", found.__self__
        yield ".__func__", found.__func__
    if isinstance(found, functools.partial):
        yield ".func", found.func
        yield ".args", found.args
        yield ".keywords", found.keywords
    if isinstance(found, types.FunctionType):
        for cell in found.__closure__ or ():
            yield ".closure", cell.cell_contents
        yield ".__defaults__", found.__defaults__
    if isinstance(found, ReferenceType):
        yield "()", found()
        yield ".__callback__", found.__callback__
    yield from _attributes(found)


def _attributes(found: Any) -> Iterator[tuple[str, Any]]:
    for name, value in getattr(found, "__dict__", {}).items():
        yield f".{name}", value
    for cls in type(found).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__weakref__", "__dict__") and hasattr(found, name):
                yield f".{name}", getattr(found, name)
    yield ".__weakref__", getattr(found, "__weakref__", None)
    for name, member in vars(type(found)).items():
        # Methods as a skill gets them; properties are its own to read.
        if isinstance(member, types.FunctionType) and not name.startswith("__"):
            yield f".{name}", getattr(found, name)
