"""How much memory this process may still take, and who says so: asked before work begins.

Sources: the kernel's estimate of free memory, limits of the container (cgroup versions 1 and 2)
and limits of the process (`ulimit -v`, `ulimit -d`).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csaq_runtime.errors import ResourceError

CGROUP, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
STACK_BYTES = 128 * 2**20
"""Addresses that stacks and allocators of threads reserve without using them."""


@dataclass(frozen=True)
class Limit:
    """`n_byte` can still be had; `source` names what limits it."""

    n_byte: int
    source: str


def available_memory() -> Limit | None:
    """The tightest limit; None where the system tells of none."""
    return min(_limits(), key=lambda limit: limit.n_byte, default=None)


def require_memory(what: object, parts: Mapping[str, int], hint: str, held: int = 0) -> None:
    """Raise ResourceError, with the sum of `parts` in its message, if that is not available.

    held: bytes of it that the process has already.
    """
    needed, limit = sum(parts.values()), available_memory()
    if limit is not None and needed - held > limit.n_byte:
        addends = " + ".join(f"{name} {shown(n_byte)}" for name, n_byte in parts.items())
        raise ResourceError(
            f"{what}: needs about {shown(needed)} of memory ({addends}),"
            f" {shown(limit.n_byte)} are available ({limit.source})",
            hint,
        )


def shown(n_byte: int) -> str:
    """`n_byte` in MiB or GiB."""
    return f"{n_byte / 2**30:.1f} GiB" if n_byte >= 2**30 else f"{n_byte / 2**20:.0f} MiB"


def _limits() -> Iterator[Limit]:
    yield from _system()
    yield from _cgroups()
    yield from _process()


def _system() -> Iterator[Limit]:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield Limit(1024 * int(line.split()[1]), "free memory")
                return
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        yield Limit(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "all memory")


def _cgroups() -> Iterator[Limit]:
    """What the group of this process and the groups around it leave."""
    own = [Path("/")]
    with suppress(OSError):
        lines = OWN_CGROUP.read_text().splitlines()
        own += [Path(path) for kinds, path in _groups(lines) if kinds in ("", "memory")]
    for path in dict.fromkeys(place for group in own for place in (group, *group.parents)):
        inside = str(path).lstrip("/")
        yield from _cgroup(CGROUP / inside, "memory.max", "memory.current")
        version_1 = CGROUP / "memory" / inside
        yield from _cgroup(version_1, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _groups(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(kinds, path) of lines such as `0::/user.slice`."""
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        yield kinds, path


def _cgroup(folder: Path, limit_name: str, used_name: str) -> Iterator[Limit]:
    with suppress(OSError, ValueError):  # no such group, or the word "max"
        limit, used = (int((folder / name).read_text()) for name in (limit_name, used_name))
        yield Limit(max(limit - used + _reclaimable(folder), 0), "container limit")


def _reclaimable(folder: Path) -> int:
    """File pages that count as used but go when memory is asked for."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0


def _process() -> Iterator[Limit]:
    """What `ulimit -v` (addresses) and `ulimit -d` (data) leave."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    with suppress(OSError, ValueError, IndexError):
        pages = [int(count) for count in Path("/proc/self/statm").read_text().split()]
        kinds = [("ulimit -v", resource.RLIMIT_AS, 0), ("ulimit -d", resource.RLIMIT_DATA, 5)]
        for name, kind, field in kinds:
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                used = pages[field] * os.sysconf("SC_PAGE_SIZE") + STACK_BYTES
                yield Limit(max(limit - used, 0), name)
