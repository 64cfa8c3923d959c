"""A model as tensors of a page: matrices in int8 with one scale per output, vectors in float32."""

import numpy as np

PER_OUTPUT = ("wte", "wpe", "head")  # stored with one row per token or position; the others are [n_in, n_out]


def quantize(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values [n_out, n_in] and float32 scales [n_out], of weights [n_out, n_in]: w ≈ value * scale."""
    scales = np.abs(rows).max(axis=1) / 127
    scales[scales == 0] = 1
    values = np.rint(rows / scales[:, None]).astype(np.int8)
    return values, scales.astype(np.float32)


def dequantized(rows: np.ndarray) -> np.ndarray:
    """Return the weights with the error of `quantize`: float32 [n_out, n_in]."""
    values, scales = quantize(rows)
    return values * scales[:, None]


def flat(tree: dict | list, prefix: str = "") -> dict:
    """Return {"blocks.0.attn.c_attn.w": array, ...} of a tree of weights."""
    items = enumerate(tree) if isinstance(tree, list) else tree.items()
    named = {}
    for key, value in items:
        name = f"{prefix}{key}"
        named |= flat(value, f"{name}.") if isinstance(value, (dict, list)) else {name: value}
    return named


def as_rows(name: str, matrix: np.ndarray) -> np.ndarray:
    """Return a matrix of the tree with one row per output, [n_out, n_in]."""
    return matrix if name in PER_OUTPUT else matrix.T


def as_tensors(params: dict) -> tuple[dict[str, np.ndarray], dict]:
    """Return the tensors of a page, and the numbers and names of the tree that are no arrays."""
    tensors = {}
    constants = {}
    for name, value in flat(params).items():
        if not isinstance(value, np.ndarray):
            constants[name] = value
        elif value.ndim == 2:
            tensors[name], tensors[f"{name}.scale"] = quantize(as_rows(name, value))
        else:
            tensors[name] = np.asarray(value, np.float32)
    return tensors, constants


def with_dequantized(tree: dict | list) -> dict | list:
    """Return the tree with every matrix as the page computes with it."""
    if isinstance(tree, list):
        return [with_dequantized(value) for value in tree]
    changed = {}
    for name, value in tree.items():
        if isinstance(value, (dict, list)):
            changed[name] = with_dequantized(value)
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            changed[name] = as_rows(name, dequantized(as_rows(name, value)))
        else:
            changed[name] = value
    return changed
