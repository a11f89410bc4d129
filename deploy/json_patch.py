"""Difference of two objects as a JSON patch (RFC 6902) for kustomize."""

from typing import Any

Step = dict[str, Any]


def json_patch(old: Any, new: Any, path: str = "") -> list[Step]:
    """The steps that turn `old` into `new`; none when they are equal.

    Lists of named items in the same order are compared item by item, others replaced as a whole.
    """
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return _of_maps(old, new, path)
    if isinstance(old, list) and isinstance(new, list) and _same_names(old, new):
        pairs = enumerate(zip(old, new, strict=True))
        return [step for i, (a, b) in pairs for step in json_patch(a, b, f"{path}/{i}")]
    return [{"op": "replace", "path": path, "value": new}]


def _of_maps(old: dict[str, Any], new: dict[str, Any], path: str) -> list[Step]:
    steps: list[Step] = []
    for key in [*old, *(key for key in new if key not in old)]:
        place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            steps.append({"op": "remove", "path": place})
        elif key not in old:
            steps.append({"op": "add", "path": place, "value": new[key]})
        else:
            steps += json_patch(old[key], new[key], place)
    return steps


def _same_names(old: list[Any], new: list[Any]) -> bool:
    def names(items: list[Any]) -> list[Any]:
        return [item.get("name") if isinstance(item, dict) else None for item in items]

    return names(old) == names(new) and None not in names(old)
