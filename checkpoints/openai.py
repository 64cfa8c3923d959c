"""OpenAI's checkpoints: hparams.json, the vocabulary, and TensorFlow's model.ckpt.*, converted once to safetensors."""

import contextlib
import os
import re
import warnings
from pathlib import Path

from checkpoints import download, files, mapped
from checkpoints.download import INDEX, TEXT_FILES, WEIGHT_FILES
from checkpoints.files import CheckpointError
from checkpoints.tensors import check_hparams, check_tensors, in_checkpoint, in_safetensors, nest, tensor_shapes
from encoder import get_encoder

CONVERTED_NAME = "model.safetensors"


def load(folder, models_dir):
    """Return the encoder, the hyper-parameters and the weights tree; download and convert what is missing."""
    official = official_files(folder, models_dir)
    download.ensure_files(folder, TEXT_FILES, official)
    hparams = read_hparams(folder)
    encoder = read_encoder(folder, hparams["n_vocab"])
    tensors = load_tensors(folder, tensor_shapes(hparams), official)
    return encoder, hparams, nest(tensors, hparams["n_layer"])


def load_tensors(folder, shapes, official):
    """Return the weights {path: array}, one for each of `shapes`, from the saved copy or else from the checkpoint."""
    copy, index = folder / CONVERTED_NAME, checkpoint_index(folder)
    if is_current(copy, index, shapes):
        return mapped.map_tensors(copy, shapes)
    download.ensure_files(folder, [index.name], official)
    import_tensorflow(folder)  # if that fails, better now than after a long download
    download.ensure_files(folder, WEIGHT_FILES if official else [], official)
    return mapped.convert_once(
        copy, shapes, lambda: is_current(copy, index, shapes), lambda copy: convert(index, copy, shapes)
    )


def read_hparams(folder):
    """Return the dict in hparams.json. CheckpointError: no GPT-2 is like that."""
    file = folder / "hparams.json"
    hparams = files.read_json_object(file)
    check_hparams(file, hparams)
    return hparams


def read_encoder(folder, n_vocab):
    """Return the encoder. CheckpointError: the vocabulary is damaged or of another model."""
    try:
        encoder = get_encoder(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if encoder.n_vocab != n_vocab:
        raise CheckpointError(
            f"{folder / 'encoder.json'} has {encoder.n_vocab} tokens but hparams.json has n_vocab {n_vocab}: "
            "they are of two models; copy all files of one there"
        )
    return encoder


def checkpoint_index(folder):
    """Return the path of the checkpoint's index: model.ckpt.index, unless the file `checkpoint` names other weights."""
    try:
        text = (folder / "checkpoint").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it may well be missing: nothing else is in it
        text = ""
    named = re.search(r'^model_checkpoint_path: "(?:.*[/\\])?([^/\\"]+)"', text)  # only the last part of a path
    return folder / f"{named[1] if named else 'model.ckpt'}.index"


def official_files(folder, models_dir):
    """Return {name: (bytes, SHA-256)} for a folder that may be downloaded to, {} for any other.

    That is models_dir/<one of the four sizes>, unless somebody has put weights of their own there.
    """
    if folder.parent == Path(files.expand(models_dir)) and checkpoint_index(folder).name == INDEX:
        return download.OFFICIAL.get(folder.name, {})
    return {}


def is_current(copy, index, shapes):
    """Whether the saved copy is whole and was made from the checkpoint with that index.

    The index holds a checksum of every tensor, so the SHA-256 of this small file stands for all the weights.
    """
    if not (copy.is_file() and index.is_file()):
        return copy.is_file()  # without a checkpoint the copy is all there is
    try:
        found, source = mapped.read_header(copy)
    except CheckpointError:
        return False
    if source is None:  # it was not made here, and is not ours to replace
        return True
    return source == files.sha256_of(index).hexdigest() and found == in_safetensors(shapes)


def convert(index, copy, shapes):
    """Write the tensors of a checkpoint to the safetensors file `copy`, one after the other.

    The memory it takes is that of TensorFlow and of the largest tensor, however many there are.
    CheckpointError: the checkpoint is damaged or does not fit hparams.json. OSError: the copy cannot be written.
    """
    source = files.sha256_of(index).hexdigest()
    found, read = open_checkpoint(index)
    check_tensors(index.with_suffix(""), in_checkpoint(shapes), found)
    mapped.write_safetensors(copy, in_safetensors(shapes), source, map(read, in_checkpoint(shapes)))


def open_checkpoint(index):
    """Return what a TensorFlow checkpoint holds, {name: (dtype, shape)}, and a function from a name to its array."""
    tf = import_tensorflow(index.parent)
    prefix = index.with_suffix("")  # what its files are called up to .index and .data

    def guarded(read, *arguments):
        try:
            return read(*arguments)
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:  # its reader raises all of them
            first_line, *_ = str(error).split("\n")
            raise CheckpointError(
                f"the checkpoint {prefix} cannot be read ({first_line}): delete {prefix.name}.index "
                f"and {prefix.name}.data-*, then run again if they were downloaded, else copy them there anew"
            ) from error

    reader = guarded(tf.train.load_checkpoint, str(prefix))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    found = {name: (dtypes[name].name, tuple(shapes[name])) for name in shapes}
    return found, lambda name: guarded(reader.get_tensor, name)


def import_tensorflow(folder):
    """Import TensorFlow in silence: it tells about GPUs and deprecations those who have asked for a text."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise CheckpointError(
            f"the checkpoint in {folder} must be converted, once, and that takes TensorFlow ({error}): pip install "
            f"tensorflow-cpu (on macOS: tensorflow), or copy {CONVERTED_NAME} there from a machine that has run the model"
        ) from error
    return tensorflow


@contextlib.contextmanager
def silent_stderr():
    """Silence the process's stderr, not only Python's sys.stderr, of which C++ knows nothing."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
