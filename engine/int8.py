"""int8 weights as operands of `x @ w`: a quarter of the memory of float32, and about four times its speed.

Each output has one scale: w ≈ value * scale, with values from -127 to 127. The activations of a position become 12-bit
integers with one scale, except for outliers, which are multiplied in float32 (the idea of Dettmers et al. 2022,
"LLM.int8()"). The sums are integers. engine/kernels.py multiplies, which needs numba.

The integers are computed once and kept in the file model.int8 beside the model, which all processes map. gpt2.py uses
the operands like any other; biases, norms and activation functions are those of engine/products.py.
"""

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from checkpoints import files, mapped
from checkpoints.files import CheckpointError
from engine.attention import AttendsRagged
from engine.compiled import compile_activations, has_gelu
from engine.forward import CompiledTransformer
from engine.products import with_fast_products

log = logging.getLogger("picogpt")

SUFFIX = ".int8"
VERSION = "int8-1"  # of the rules of quantization; files of other versions are written again
PER_OUTPUT = ("wte", "head")  # stored with one row per output; the other matrices are [n_in, n_out]

# ---- operands --------------------------------------------------------------------------------------------------


class Int8Matrix:
    """An int8 matrix as the right operand of `x @ w`. values: int8 [n_out, n_in]. scales: float32 [n_out]."""

    __array_ufunc__ = None  # makes NumPy call __rmatmul__ for `array @ matrix`

    def __init__(self, values: np.ndarray, scales: np.ndarray):
        self.values = frozen(values)
        self.scales = frozen(scales)

    @property
    def shape(self) -> tuple[int, int]:
        n_out, n_in = self.values.shape
        return n_in, n_out

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:  # [..., n_in] @ [n_in, n_out] -> [..., n_out]
        kernels = import_kernels()
        rows = np.require(x.reshape(-1, x.shape[-1]), np.float32, ["C", "W"])  # [n_rows, n_in]
        product = np.empty((len(rows), len(self.values)), dtype=np.float32)
        kernels.multiply(rows, self.values, self.scales, product)
        return product.reshape(*x.shape[:-1], product.shape[-1])  # [n_rows, n_out] -> [..., n_out]


def frozen(array):
    """Return a read-only view, as of a mapped file: numba compiles another form for arrays that can be written."""
    view = array.view()
    view.flags.writeable = False
    return view


class Int8Embedding(AttendsRagged):
    """The token embedding or the head [n_vocab, n_embd]: `wte[ids]` for the input, `x @ head.T` for the logits."""

    def __init__(self, values: np.ndarray, scales: np.ndarray):
        self.values = values
        self.scales = scales
        self.T = Int8Matrix(values, scales)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, ids):  # [...] -> [..., n_embd]
        return self.values[ids] * self.scales[ids][..., None]


def import_kernels(name="kernels"):
    """Return a module of compiled loops. Raise RuntimeError if numba is not installed."""
    try:
        return importlib.import_module(f"engine.{name}")
    except ImportError as error:
        raise RuntimeError(f"int8 weights need numba, which is not usable ({error}): pip install numba") from None


# ---- quantization ----------------------------------------------------------------------------------------------


def quantize(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values [n_out, n_in] and float32 scales [n_out] of weights [n_out, n_in].

    NaN or infinity in a row makes its scale NaN, so that it is not lost.

    >>> values, scales = quantize(np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32))
    >>> values.tolist(), (127 * scales).tolist()
    ([[64, -127, 32], [0, 0, 0]], [2.0, 127.0])
    """
    scales = scales_of(rows)
    return values_of(rows, scales), scales


def scales_of(rows):
    largest = np.abs(rows).max(axis=1)
    scales = np.where(largest == 0, 1, largest / np.float32(127)).astype(np.float32)
    scales[~np.isfinite(largest)] = np.nan
    return scales


def values_of(rows, scales):
    is_finite = np.isfinite(scales)
    values = np.zeros(rows.shape, np.int8)
    values[is_finite] = np.rint(rows[is_finite] / scales[is_finite, None])
    return values


def matrices(tree: dict | list, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, weights [n_out, n_in]) of every matrix of a weights tree except wpe."""
    for key, value in enumerate(tree) if isinstance(tree, list) else tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield from matrices(value, f"{name}.")
        elif isinstance(value, np.ndarray) and value.ndim == 2 and name != "wpe":
            yield name, value if name in PER_OUTPUT else value.T


def with_int8_products(params: dict, path: Path | None = None, source: str | None = None) -> dict:
    """Return the weights tree with int8 matrices, and operands of products.py and compiled.py for the rest.

    path: the folder or the file of the model; the integers are kept beside it. None: they are computed for this
    process. source: a fingerprint of the model's files. Raise RuntimeError if numba is not installed.
    """
    kernels = import_kernels()
    if not kernels.is_cached(kernels.product):
        log.info("Compiling the loops for int8 weights, once on this machine: about 15 seconds.")
    arrays = quantized(params) if path is None or source is None else stored(params, path, source)
    operands = {name: operand(name, arrays) for name, _ in matrices(params)}
    wrapped = with_fast_products(params)
    compile_activations(wrapped, params, import_kernels("float_kernels").gelu_on_all_threads)
    tree = replaced(wrapped, operands)
    if all(map(has_gelu, params["blocks"])):
        tree["wte"].transformer = CompiledTransformer(tree)
    return tree


def operand(name, arrays):
    kind = Int8Embedding if name in PER_OUTPUT else Int8Matrix
    return kind(arrays[name], arrays[f"{name}.scale"])


def quantized(params) -> dict[str, np.ndarray]:
    """Return {name: values, name.scale: scales} of all matrices."""
    return dict(zip(shapes_of(params), tensors_of(params), strict=True))


def tensors_of(params):
    """Yield the tensors of the file: first all scales, so that they are aligned to their four bytes."""
    for _, rows in matrices(params):
        yield scales_of(rows)
    for _, rows in matrices(params):
        yield values_of(rows, scales_of(rows))


def replaced(tree, operands: dict, prefix: str = ""):
    """Return a weights tree with operands in place of matrices. operands: {name as in `matrices`: operand}."""
    if isinstance(tree, list):
        return [replaced(child, operands, f"{prefix}{i}.") for i, child in enumerate(tree)]
    if isinstance(tree, dict):
        return {key: replaced(child, operands, f"{prefix}{key}.") for key, child in tree.items()}
    return operands.get(prefix[:-1], tree)


# ---- the file --------------------------------------------------------------------------------------------------


def stored(params: dict, path: Path, source: str) -> dict[str, np.ndarray]:
    """Return the integers of a model, mapped from the file beside it, which is written first unless it is current.

    If the folder is read-only, the integers are computed for this run.
    """
    file = path / f"model{SUFFIX}" if path.is_dir() else path.with_name(f"{path.name}{SUFFIX}")
    shapes = shapes_of(params)
    source = f"{VERSION} {source}"

    def write(new):
        mapped.write_safetensors(new, file.name, shapes, source, tensors_of(params))

    return mapped.write_once(file, shapes, lambda: is_current(file, shapes, source), write, "the weights are quantized")


def shapes_of(params):
    """Return {name: (dtype, shape)} of the tensors in the file, in its order."""
    sizes = {name: rows.shape for name, rows in matrices(params)}
    scales = {f"{name}.scale": ("F32", (n_out,)) for name, (n_out, _) in sizes.items()}
    return scales | {name: ("I8", shape) for name, shape in sizes.items()}


def is_current(file, shapes, source):
    """Return whether a file has the integers of this model."""
    if not files.is_file(file):
        return False
    try:
        found, found_source = mapped.read_header(file)
    except CheckpointError:
        return False
    return found_source == source and found == shapes
