"""The number of threads: `--threads`, OMP_NUM_THREADS, or the CPUs that this process may use.

BLAS reads environment variables when it is loaded. `limit` must therefore be called before NumPy is imported.
"""

from collections.abc import Iterable, MutableMapping
from pathlib import Path

from engine.cores import n_cores

FLAGS = ("--threads", "-threads")
CHOSEN = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")
CGROUP_2 = "/sys/fs/cgroup/cpu.max"  # "QUOTA PERIOD" in microseconds, or "max PERIOD"
CGROUP_1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


def limit(arguments: Iterable[str], environment: MutableMapping[str, str]) -> None:
    """Set the number of threads of BLAS and of compiled code in the environment.

    arguments: the words of the command line; an invalid number is left to its check. Variables that the user has set
    stay as they are, unless --threads is given.
    """
    asked = asked_threads(list(arguments))
    if asked:
        environment.update(dict.fromkeys(CHOSEN, str(asked)))
    elif not any(environment.get(name) for name in CHOSEN[:2]):
        n = quota()
        if n is not None and n < n_cores():
            environment.update(dict.fromkeys(CHOSEN, str(n)))


def asked_threads(arguments: list[str]) -> int | None:
    """Return the number that --threads gives, None without a valid one."""
    value = None
    for i, word in enumerate(arguments):
        if word == "--":
            break
        name, equals, text = word.partition("=")
        if name in FLAGS:
            value = text if equals else (arguments[i + 1] if i + 1 < len(arguments) else "")
    return int(value) if value and value.isdecimal() and 0 < int(value) < 2**15 else None


def quota(version_2: str = CGROUP_2, version_1: tuple[str, str] = CGROUP_1) -> int | None:
    """Return how many CPUs the control group may keep busy, at least 1; None without a limit. Containers have one."""
    for names in ((version_2,), version_1):
        try:
            words = " ".join(Path(name).read_text(encoding="ascii") for name in names).split()
            n = int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
        return max(1, round(n)) if n > 0 else None
    return None
