"""The memory that texts in progress need, and the memory that is free."""

import contextlib
import os


def free_memory() -> int:
    """Return the bytes that are available without swapping, or 4 GB if the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def check_memory(params: dict, n_texts: int, n_positions: int) -> None:
    """Raise RuntimeError if texts of `n_positions` tokens, decoded together, need more memory than is free.

    The system may promise memory that it does not have, and end the process later.
    """
    n_vocab = len(params["wte"])
    n_embd = params["wpe"].shape[-1]
    n_floats = 2 * len(params["blocks"]) * n_embd * n_positions + n_vocab  # keys and values of each layer; logits
    needed = 4 * n_floats * n_texts
    free = free_memory()
    if needed > free:
        raise RuntimeError(
            f"{n_texts} texts of {n_positions} tokens need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB "
            "are free; ask for fewer samples or tokens"
        )
