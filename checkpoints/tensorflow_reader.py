"""TensorFlow checkpoints that are not mapped in place: read by TensorFlow and converted to float32 once.

These are checkpoints of one file (V1), with a compressed index, with partitioned variables, or with other types of
numbers. TensorFlow takes seconds to start and copies what it reads, so the tensors are saved as model.safetensors,
which later runs map.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named

Reader = tuple[dict[str, tuple[str, tuple[int, ...]]], Callable[[str], np.ndarray]]


def open_checkpoint(prefix: Path, kind: str) -> Reader:
    """Return {name: (dtype, shape)} of a checkpoint, and a function that reads a tensor by its name.

    prefix: the common part of the names of its files. kind: why TensorFlow is needed, for the message.
    """
    tf = import_tensorflow(prefix.parent, kind)

    def checked(read, *arguments):
        try:
            return read(*arguments)
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:  # TensorFlow raises all of these
            is_changed = "checksum" in str(error).lower()
            problem = "the checksum of a tensor does not match" if is_changed else "a file is missing or damaged"
            raise CheckpointError(
                f"the checkpoint {named(prefix)} cannot be read ({problem}): copy its files there again"
            ) from error

    reader = checked(tf.train.load_checkpoint, str(prefix))
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    found = {name: (dtypes[name].name, tuple(shapes[name])) for name in shapes}
    return found, lambda name: np.asarray(checked(reader.get_tensor, name), dtype=np.float32)


def import_tensorflow(folder: Path, kind: str) -> Any:
    """Import and return TensorFlow, without its GPU and deprecation messages.

    folder: the model to convert. kind: why TensorFlow is needed. Both are for the message.
    Raise CheckpointError if TensorFlow cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise CheckpointError(
            f"the checkpoint in {named(folder)} has {kind}, which only TensorFlow reads, and importing it failed "
            f"({abbreviated(error, 240)}): pip install tensorflow-cpu (on macOS: tensorflow), or copy "
            "model.safetensors there from a machine where the model has been converted"
        ) from error
    return tensorflow


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device: C++ code writes to it directly, not to sys.stderr."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
