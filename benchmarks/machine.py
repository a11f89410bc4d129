"""Description of the machine, and resource usage of its processes (Linux)."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, Python version, and the load at the start."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1m": load(),
    }


def load() -> float:
    """Return the load of the last minute."""
    return round(os.getloadavg()[0], 2)


def tree(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def resident_mib(pid: int, *, peak: bool = False) -> float:
    """Return the resident size of a process and its descendants in MiB; the highest if `peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    kib = 0
    for each in tree(pid):
        lines = Path(f"/proc/{each}/status").read_text().splitlines()
        kib += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return kib / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its descendants have used so far."""
    return sum(_cpu(each) for each in tree(pid))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
