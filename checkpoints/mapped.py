"""safetensors files: written once, then mapped into memory instead of read.

Such a file is the length of the header (8 bytes, little-endian), the header (JSON: name, type, shape and position of
each tensor) and the tensors without gaps. Mapped, it costs no time and no copy: the operating system loads a page when
it is first used, and all processes share the pages. In the files written here the tensors start at a multiple of 64
bytes.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.tensors import Shapes, TypedShapes, check_tensors, in_safetensors

log = logging.getLogger("picogpt")

Arrays = dict[str, np.ndarray]  # {path or name: array}

ALIGNMENT = 64  # bytes: a cache line of the CPU

# The types of safetensors as NumPy types. NumPy has no bfloat16, so its 16 bits are returned as uint16.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "BOOL": "?", "U8": "u1", "I8": "i1"}
DTYPES |= {"U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}


# ---- convert once ----------------------------------------------------------------------------------------------


def convert_once(
    converted: Path, shapes: Shapes, is_current: Callable[[], bool], convert: Callable[[Path], None]
) -> Arrays:
    """Return the tensors of the safetensors file `converted`, mapped; write the file first unless it is current.

    is_current: return whether the file can be used as it is. convert: write the file to the given path.
    If the folder is read-only, the conversion lasts for this run.
    """
    try:
        with files.locked(converted.parent):
            if not is_current():  # another process may have converted the model meanwhile
                convert(converted)
        return map_tensors(converted, shapes)
    except OSError as error:
        log.info(f"{converted.parent} is not writable ({error}): the model is converted for this run only")
        return convert_for_this_run(converted, shapes, convert)


def convert_for_this_run(converted, shapes, convert):
    """Convert into the system's temporary folder and map that file.

    The file is deleted at once; the mapping keeps its content until the run ends.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="picogpt-", ignore_cleanup_errors=True) as folder:
            temporary = Path(folder, converted.name)
            convert(temporary)
            return map_tensors(temporary, shapes)
    except OSError as error:
        raise CheckpointError(
            f"the model in {converted.parent} can be converted neither there nor in the system's temporary folder: "
            f"{error}; free some disk space, make the folder writable or set TMPDIR to another temporary folder"
        ) from error


# ---- write -----------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, shapes: TypedShapes, source: str, tensors: Iterable[np.ndarray]) -> None:
    """Write float32 tensors to a safetensors file, one after the other.

    shapes: {name: (dtype, shape)}. source: a checksum of the files converted. tensors: in the order of `shapes`.
    """
    header = {"__metadata__": {"format": "pt", "source": source}}  # other libraries require "pt"
    end = 0
    for name, (dtype, shape) in shapes.items():
        start = end
        end += 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    bar = files.progress_bar(
        tensors, desc=f"converting to {path.name}", total=len(shapes), unit=" tensors", leave=False
    )
    with files.new_file(path) as file, bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in bar:
            file.write(np.ascontiguousarray(tensor, dtype="<f4"))


# ---- map -------------------------------------------------------------------------------------------------------


def map_tensors(path: Path, shapes: Shapes, fits: str = "hparams.json") -> Arrays:
    """Return {path: float32 array} of a safetensors file, mapped.

    fits: the file that gives the shapes, for the message.
    Raise CheckpointError if the file is damaged or its tensors are not those in `shapes`.
    """
    found, _ = read_header(path)
    names = in_safetensors(shapes)
    check_tensors(path, names, found, fits)
    arrays = map_file(path, found)
    return {tensor_path: arrays[name] for tensor_path, name in zip(shapes, names, strict=True)}


def read_header(path: Path) -> tuple[TypedShapes, str | None]:
    """Return {name: (dtype, shape)} of a safetensors file, in the order of the data, and the source it records.

    The library checks that the tensors are contiguous and end with the file, which determines their positions.
    Raise CheckpointError if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.offset_keys()}
            found = {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in tensors.items()}
            return found, (file.metadata() or {}).get("source")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut off ({error}): delete it and run again") from error


def map_file(path: Path, found: TypedShapes) -> Arrays:
    """Return {name: array} of a safetensors file with the header `found`: read-only views of one mapping.

    Raise CheckpointError if a type is not in DTYPES.
    """
    unknown = {dtype for dtype, _ in found.values()} - DTYPES.keys()
    if unknown:
        raise CheckpointError(
            f"{path} has tensors of type {', '.join(sorted(unknown))}; the type must be one of {', '.join(DTYPES)}"
        )
    sizes = [np.dtype(DTYPES[dtype]).itemsize * math.prod(shape) for dtype, shape in found.values()]
    offset = path.stat().st_size - sum(sizes)
    mapping = np.memmap(path, np.uint8, mode="r", offset=offset).view(np.ndarray)  # operations on a memmap are slower
    arrays = {}
    start = 0
    for (name, (dtype, shape)), size in zip(found.items(), sizes, strict=True):
        arrays[name] = mapping[start : start + size].view(DTYPES[dtype]).reshape(shape)
        start += size
    return arrays
