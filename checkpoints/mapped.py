"""safetensors files: written once, then mapped into memory instead of read.

Such a file is the length of the header (8 bytes, little-endian), the header (JSON: name, type, shape and position of
each tensor) and the tensors without gaps. Mapped, it costs no time and no copy: the operating system loads a page when
it is first used, and all processes share the pages. In the files written here the tensors start at a multiple of 64
bytes.
"""

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named, reason
from checkpoints.tensors import Shapes, TypedShapes, check_tensors, in_safetensors

log = logging.getLogger("picogpt")

Arrays = dict[str, np.ndarray]  # {path or name: array}

ALIGNMENT = 64  # bytes: a cache line of the CPU
LARGEST_HEADER = 2**23  # bytes; a GPT-2 of a thousand layers has about a million

# The types of safetensors as NumPy types. NumPy has no bfloat16, so its 16 bits are returned as uint16.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "BOOL": "?", "U8": "u1", "I8": "i1"}
DTYPES |= {"U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}


# ---- convert once ----------------------------------------------------------------------------------------------


def convert_once(
    converted: Path, shapes: Shapes, is_current: Callable[[], bool], convert: Callable[[BinaryIO], None]
) -> Arrays:
    """Return {path: array} of the safetensors file `converted`, as `write_once` does. shapes: {path: shape}."""
    return at_paths(shapes, write_once(converted, in_safetensors(shapes), is_current, convert))


def write_once(
    converted: Path,
    tensors: TypedShapes,
    is_current: Callable[[], bool],
    convert: Callable[[BinaryIO], None],
    what: str = "the model is converted",
) -> Arrays:
    """Return {name: array} of a safetensors file, mapped; write the file first unless it is current.

    tensors: {name: (dtype, shape)}. is_current: return whether the file can be used as it is. convert: write the
    tensors to an open file. what: says in a warning what is done for this run only, if the folder is read-only.
    """
    try:
        with files.locked(converted.parent):
            if not is_current():  # another process may have converted the model meanwhile
                with files.replacing(converted) as file:
                    convert(file)
        return map_checked(converted, tensors)
    except OSError as error:
        folder = named(converted.parent)
        log.warning(f"{folder} is not writable ({reason(error)}): {what} for this run only")
        return convert_for_this_run(converted, tensors, convert)


def convert_for_this_run(converted, tensors, convert):
    """Convert into a file without a name in the system's temporary folder and map it.

    The operating system deletes the file when the run ends, also if the run is killed.
    """
    try:
        with tempfile.TemporaryFile(prefix="picogpt-") as file:
            convert(file)
            file.flush()
            return map_file(file, tensors)
    except OSError as error:
        raise CheckpointError(
            f"the model in {named(converted.parent)} can be converted neither there nor in the system's temporary "
            f"folder: {reason(error)}; free some disk space, make the folder writable or set TMPDIR to another "
            "temporary folder"
        ) from error


# ---- write -----------------------------------------------------------------------------------------------------


def write_safetensors(
    file: BinaryIO, name: str, shapes: TypedShapes, source: str, tensors: Iterable[np.ndarray]
) -> None:
    """Write tensors to an open file, in the format of safetensors, one after the other.

    name: shown with the progress bar. shapes: {name: (dtype, shape)}. source: a checksum of the files converted.
    tensors: in the order of `shapes`.
    """
    bar = files.progress_bar(tensors, desc=f"converting to {name}", total=len(shapes), unit=" tensors", leave=False)
    header = {"__metadata__": {"format": "pt", "source": source}}  # other libraries require "pt"
    end = 0
    for tensor_name, (dtype, shape) in shapes.items():
        start = end
        end += np.dtype(DTYPES[dtype]).itemsize * math.prod(shape)
        header[tensor_name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, (dtype, _) in zip(bar, shapes.values(), strict=True):
            file.write(np.ascontiguousarray(tensor, dtype=DTYPES[dtype]))


# ---- map -------------------------------------------------------------------------------------------------------


def map_tensors(path: Path, shapes: Shapes, fits: str = "hparams.json") -> Arrays:
    """Return {path: float32 array} of a safetensors file, mapped.

    fits: the file that gives the shapes, for the message.
    Raise CheckpointError if the file is damaged or its tensors are not those in `shapes`.
    """
    return at_paths(shapes, map_checked(path, in_safetensors(shapes), fits))


def map_checked(path: Path, expected: TypedShapes, fits: str = "hparams.json") -> Arrays:
    """Return {name: array} of a safetensors file, mapped; the errors are those of map_tensors."""
    found, _ = read_header(path)
    check_tensors(path, expected, found, fits)
    with files.open_to_read(path) as file:
        return map_file(file, found)


def at_paths(shapes, arrays):
    """Return {path: array} in the order of `shapes`, from {name in a safetensors file: array}."""
    return {path: arrays[name] for path, name in zip(shapes, in_safetensors(shapes), strict=True)}


def read_header(path: Path) -> tuple[TypedShapes, str | None]:
    """Return {name: (dtype, shape)} of a safetensors file, in the order of the data, and the source it records.

    The library checks that the tensors are contiguous and end with the file, which determines their positions.
    Raise CheckpointError if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    with files.open_to_read(path) as file:
        size = int.from_bytes(file.read(8) or b"", "little")  # None: files of /proc that have nothing to say yet
    if size > LARGEST_HEADER:
        problem = f"says that its header has {size:,} bytes; a GPT-2's has at most {LARGEST_HEADER:,}"
        raise CheckpointError(f"{named(path)} is damaged or no safetensors file: it {problem}; copy it again")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.offset_keys()}
            found = {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in tensors.items()}
            return found, (file.metadata() or {}).get("source")
    except (SafetensorError, ValueError, OverflowError) as error:
        remedy = "copy it again, or delete it and run again if it was converted here"
        raise CheckpointError(f"{named(path)} is damaged or cut off: {remedy}") from error
    except MemoryError as error:  # raised where the address space of a process is limited
        problem = f"{named(path)} has {path.stat().st_size:,} bytes, more than this process can map into memory"
        raise CheckpointError(f"{problem}: allow it more memory (ulimit -v) or choose a smaller model") from error


def map_file(file: BinaryIO, found: TypedShapes) -> Arrays:
    """Return {name: array} of an open safetensors file with the header `found`: read-only views of one mapping.

    Raise CheckpointError if a type is not in DTYPES.
    """
    unknown = {dtype for dtype, _ in found.values()} - DTYPES.keys()
    if unknown:
        types = abbreviated(", ".join(sorted(unknown)))
        raise CheckpointError(
            f"{named(file.name)} has tensors of type {types}; the type must be one of {', '.join(DTYPES)}"
        )
    sizes = [np.dtype(DTYPES[dtype]).itemsize * math.prod(shape) for dtype, shape in found.values()]
    offset = os.fstat(file.fileno()).st_size - sum(sizes)
    # Operations on a memmap are slower; an empty file cannot be mapped.
    mapping = np.memmap(file, np.uint8, mode="r", offset=offset).view(np.ndarray) if any(sizes) else np.zeros(0, "u1")
    arrays = {}
    start = 0
    for (name, (dtype, shape)), size in zip(found.items(), sizes, strict=True):
        try:
            arrays[name] = mapping[start : start + size].view(DTYPES[dtype]).reshape(shape)
        except (ValueError, OverflowError) as error:  # an empty tensor of impossible shape, such as [0, 2**63]
            problem = f"has a tensor {abbreviated(name)} of the impossible shape {abbreviated(list(shape))}"
            raise CheckpointError(f"{named(file.name)} {problem}: copy it again") from error
        start += size
    return arrays
