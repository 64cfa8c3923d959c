"""The memory that texts in progress need, and the memory that is free."""

import contextlib
import os

WORTH_A_CHECK = 10**8  # bytes; smaller needs are met


def free_memory() -> int:
    """Return the bytes that are available without swapping, or 4 GB if the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def bytes_per_text(params: dict, n_positions: int) -> int:
    """Return the memory of a text in progress: keys and values of each layer, and logits."""
    n_floats = 2 * len(params["blocks"]) * params["wpe"].shape[-1] * n_positions + len(params["wte"])
    return 4 * n_floats


def slots_that_fit(hparams: dict, most: int, n_processes: int = 1) -> tuple[int, int]:
    """Return the number of slots that fit in half of the free memory, 1 to `most`, and the bytes of one.

    n_processes: how many such processes share the memory.
    """
    n_floats = 2 * hparams["n_layer"] * hparams["n_embd"] * hparams["n_ctx"]  # keys and values
    bytes_per_slot = 4 * n_floats
    n_slots = free_memory() // 2 // bytes_per_slot // n_processes
    return max(1, min(most, n_slots)), bytes_per_slot


def check_slots(params: dict, n_rows: int, n_positions: int) -> None:
    """Raise RuntimeError if `n_rows` slots need more memory than is free; the message has the number that fits."""
    one = bytes_per_text(params, n_positions)
    if n_rows * one < WORTH_A_CHECK:
        return
    free = free_memory()
    texts = f"{n_rows} texts of {n_positions} tokens at a time"
    check_free(n_rows * one, free, texts, f"--batch_size {max(1, free // one)} fits")


def check_memory(params: dict, n_texts: int, n_positions: int) -> None:
    """Raise RuntimeError if texts of `n_positions` tokens, decoded together, need more memory than is free.

    The system may promise memory that it does not have, and end the process later.
    """
    needed = n_texts * bytes_per_text(params, n_positions)
    check_free(needed, free_memory(), f"{n_texts} texts of {n_positions} tokens", "ask for fewer samples or tokens")


def check_free(needed, free, texts, remedy):
    """Raise RuntimeError, with both numbers of bytes, if more is needed than is free."""
    if needed > free:
        sizes = f"need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise RuntimeError(f"{texts} {sizes}; {remedy}")
