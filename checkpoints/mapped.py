"""safetensors files: written once, then mapped into memory without a copy."""

import json
import logging
import math
import tempfile
from pathlib import Path

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.tensors import check_tensors, in_safetensors

log = logging.getLogger("picogpt")

# The types of safetensors, as NumPy's. It has no bfloat16, which comes as its 16 bits.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "BOOL": "?", "U8": "u1", "I8": "i1"}
DTYPES |= {"U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}


def convert_once(copy, shapes, is_current, convert):
    """Return the tensors of the safetensors file `copy`, once `convert(path)` has written it unless `is_current()`."""
    try:
        with files.locked(copy.parent):
            if not is_current():  # another process may just have made it
                convert(copy)
        return map_tensors(copy, shapes)
    except OSError as error:
        log.info(f"{copy.parent} cannot be written to ({error}): the model is converted for this run only")
        return convert_for_this_run(copy, shapes, convert)


def convert_for_this_run(copy, shapes, convert):
    """Convert to the system's temporary folder and map that. The file goes at once, its content when the run ends."""
    try:
        with tempfile.TemporaryDirectory(prefix="picogpt-", ignore_cleanup_errors=True) as folder:
            temporary = Path(folder, copy.name)
            convert(temporary)
            return map_tensors(temporary, shapes)
    except OSError as error:
        raise CheckpointError(
            f"{copy.parent} could be converted neither there nor in the system's temporary folder: {error}; "
            "make room, make it writable or name another temporary folder in TMPDIR"
        ) from error


def write_safetensors(path, shapes, source, tensors):
    """Write a safetensors file: the length of the header (8 bytes), the header (JSON), the tensors without gaps.

    shapes: {name: (dtype, shape)}. source: a name for where they are from. tensors: the float32 arrays, in that order.
    """
    from tqdm import tqdm

    header, end = {"__metadata__": {"format": "pt", "source": source}}, 0  # "pt" lets other libraries load it, too
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-(8 + len(text)) % 64)  # so that the tensors begin where a line of the CPU's cache does
    look = {"unit": " tensors", "disable": None, "leave": False}
    bar = tqdm(tensors, desc=f"converting to {path.name}", total=len(shapes), **look)
    with files.new_file(path) as file, bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in bar:
            file.write(np.ascontiguousarray(tensor, dtype="<f4"))


def map_tensors(copy, shapes, fits="hparams.json"):
    """Return the tensors of a safetensors file, {path: float32 array}, without reading them: a page comes when used.

    CheckpointError: the file is damaged or does not fit hparams.json, or whatever gives the shapes.
    """
    found, _ = read_header(copy)
    check_tensors(copy, in_safetensors(shapes), found, fits)
    tensors = map_file(copy, found)
    return {path: tensors[name] for path, name in zip(shapes, in_safetensors(shapes), strict=True)}


def map_file(path, found):
    """Return {name: array} of a safetensors file that holds what is `found` there, in the order of the file.

    The arrays are read-only views of one mapping, which lives as long as they do; all processes share its pages.
    CheckpointError: a type is none of DTYPES.
    """
    unknown = {dtype for dtype, _ in found.values()} - DTYPES.keys()
    if unknown:
        raise CheckpointError(f"{path} has tensors of {', '.join(sorted(unknown))}; they must be {', '.join(DTYPES)}")
    kinds = [np.dtype(DTYPES[dtype]) for dtype, _ in found.values()]
    sizes = [kind.itemsize * math.prod(shape) for kind, (_, shape) in zip(kinds, found.values(), strict=True)]
    mapping = np.memmap(path, np.uint8, mode="r", offset=path.stat().st_size - sum(sizes))
    # Plain arrays, as a memmap is slower in every operation.
    parts = np.split(mapping.view(np.ndarray), np.cumsum(sizes)[:-1])
    tensors = zip(parts, kinds, found.items(), strict=True)
    return {name: part.view(kind).reshape(shape) for part, kind, (name, (_, shape)) in tensors}


def read_header(copy):
    """Return what a safetensors file holds, {name: (dtype, shape)} in the order of the file, and what it was made from.

    The library makes sure that the tensors follow each other without gaps to the end of the file, so that is all
    it takes to know where they are. CheckpointError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(copy, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.offset_keys()}
            found = {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in tensors.items()}
            return found, (file.metadata() or {}).get("source")
    except SafetensorError as error:
        raise CheckpointError(f"{copy} is damaged or cut off ({error}): delete it and run again") from error
