"""The CPU cores that this process may use. This module imports no NumPy, whose BLAS needs the number at its start."""

import functools
import os


@functools.cache  # every decoding step asks
def n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
