"""From files to weights: find the folder of a model, download what is missing, convert it once, map it, check it.

A model is a folder. In the official layout, which this file is about, it holds hparams.json (the sizes), encoder.json
and vocab.bpe (the vocabulary) and a TensorFlow checkpoint (the weights): model.ckpt.index, checkpoint,
model.ckpt.data-00000-of-00001. layouts.py reads the folders of Hugging Face and of nanoGPT.
TensorFlow takes seconds to start and copies what it reads. So it reads a checkpoint only once: the tensors are saved
beside it as model.safetensors, a file so simple that they can be used where they lie, without being read in at all.

    find      a name or a path                        -> a folder
    download  what the folder lacks of a known model  -> files, verified as they arrive
    convert   model.ckpt.*                            -> model.safetensors
    map       model.safetensors                       -> {"h0/attn/c_attn/w": array, ...}
    check     all names, shapes and sizes, against hparams.json
    nest      {"h0/attn/c_attn/w": array, ...}        -> {"blocks": [{"attn": {"c_attn": {"w": array}}}, ...]}

A file is written under a name that ends in .part, and renamed when it is whole, by the one process that holds the
folder's lock: what has its own name is never half a file.
"""

import contextlib
import difflib
import hashlib
import json
import math
import os
import re
import reprlib
import secrets
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from encoder import get_encoder

INDEX, DATA, COPY = "model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.safetensors"
TEXT_FILES = ("hparams.json", "encoder.json", "vocab.bpe")
WEIGHT_FILES = (INDEX, "checkpoint", DATA)
ID = r"[\w.-]+/[\w.-]*\w"  # a model's name at Hugging Face
OTHER_LAYOUTS = ("config.json", "ckpt.pt")  # of Hugging Face and nanoGPT; see layouts.py

# OpenAI's files: {size of the model: {name: (bytes, SHA-256)}}, with None for what nobody has published.
COMMON = {
    "checkpoint": (77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"),
    "encoder.json": (1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
OFFICIAL = {
    "124M": {
        **COMMON,
        "hparams.json": (90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
        INDEX: (5215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
        DATA: (497759232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
    },
    "355M": {
        **COMMON,
        "hparams.json": (91, "310dfdb1f0c786b79d93459eaa470f3978d873bdc3e1f9fed1cad24d9dd0b1f6"),
        INDEX: (10399, "4490e7b1f5ec0abfc1e111fcd27cdda7cb280c597ba0a885c364134e62ce43aa"),
        DATA: (1419292672, "22b4212602a087d1cdeec3509648f4d7b1f181eaa33ce0f3c688fbfb732d622f"),
    },
    "774M": {**COMMON, "hparams.json": (None, None), INDEX: (None, None), DATA: (3096120320, None)},
    "1558M": {
        **COMMON,
        "hparams.json": (91, "647420ef8cf586f8933899000aa50c1996eaca50e4dc6fbd25bfdc64f4207bbf"),
        INDEX: (20724, "3a968cd212647a6007ddf7d6c9f52c9b158d0e9aabc9206390709c37d4175e5e"),
        DATA: (6230444800, None),
    },
}
ALIASES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
ALIASES |= {"117M": "124M", "345M": "355M"}  # what the first two sizes were called at first

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # unless PICOGPT_MODELS_URL names another
TIMEOUT = (10, 60)  # seconds to connect; seconds without a byte
BACK_OFF = (0.5, 1, 2, 4)  # seconds before each new try
CHUNK = 2**16  # bytes

# What hparams.json must have, and the largest of each that is believed.
HPARAMS = {"n_vocab": 10_000_000, "n_ctx": 10_000_000, "n_embd": 1_000_000, "n_head": 100_000, "n_layer": 1_000}

# The types of safetensors, as NumPy's. It has no bfloat16, which comes as its 16 bits.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "BOOL": "?", "U8": "u1", "I8": "i1"}
DTYPES |= {"U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}


class CheckpointError(RuntimeError):
    """The files of a model are missing, damaged or at odds with each other, or could not be downloaded."""


def load_encoder_hparams_and_params(model_size, models_dir):
    """Return the encoder, the hyper-parameters and the weights of a model; download and convert it if need be.

    model_size, models_dir: see `find_model`. The encoder: see encoder.py. Hyper-parameters: the dict in hparams.json.
    The weights: float32 arrays, mapped from the file and read-only, in this tree (D = n_embd; a folder of Hugging Face
    or nanoGPT may add an "activation" to mlp, an "eps" to ln_1, ln_2 and ln_f, and have another width than 4*D):

        {"wte": [n_vocab, D], "wpe": [n_ctx, D], "blocks": [block] * n_layer, "ln_f": {"g": [D], "b": [D]}}
        block = {"ln_1": {"g", "b"}, "attn": {"c_attn": {"w": [D, 3*D], "b": [3*D]}, "c_proj": {"w", "b"}},
                 "ln_2": {"g", "b"}, "mlp": {"c_fc": {"w": [D, 4*D], "b": [4*D]}, "c_proj": {"w", "b"}}}

    ValueError: there is no such model. CheckpointError: see there.
    """
    folder = find_model(model_size, models_dir)
    if not (folder / "hparams.json").is_file() and any((folder / name).is_file() for name in OTHER_LAYOUTS):
        import layouts

        return layouts.load(folder, models_dir)
    official = official_files(folder, models_dir)
    provide(folder, TEXT_FILES, official)
    hparams = read_hparams(folder)
    encoder = read_encoder(folder, hparams["n_vocab"])
    tensors = load_tensors(folder, layout(hparams), official)
    return encoder, hparams, nest(tensors, hparams["n_layer"])


def load_tensors(folder, shapes, official):
    """Return the weights {path: array}, one for each of `shapes`, from the saved copy or else from the checkpoint."""
    copy, index = folder / COPY, checkpoint_index(folder)
    if is_current(copy, index, shapes):
        return map_tensors(copy, shapes)
    provide(folder, [index.name], official)
    import_tensorflow(folder)  # if that fails, better now than after a long download
    provide(folder, WEIGHT_FILES if official else [], official)
    return converted(copy, shapes, lambda: is_current(copy, index, shapes), lambda copy: convert(index, copy, shapes))


# ---- find ------------------------------------------------------------------------------------------------------


def find_model(model_size, models_dir):
    """Return the folder of a model; it need not be there yet if it is one that can be downloaded.

    model_size: the name of a folder in models_dir; one of OpenAI's sizes, 124M, 355M, 774M or 1558M, or another name
    of these (ALIASES); or a path. ~ and $VARIABLES are expanded in both. No file is read, no network used.
    ValueError: there is no such model.
    """
    name, models_dir = expand(model_size).rstrip(os.sep), Path(expand(models_dir))  # a shell completes tiny to tiny/
    if os.path.exists(models_dir) and not os.path.isdir(models_dir):
        raise ValueError(f"models_dir is {str(models_dir)!r}, a file; it must be a folder that holds those of models")
    folders = sorted(next(os.walk(models_dir), (models_dir, [], []))[1])
    if name in folders:
        return models_dir / name
    if name in (*OFFICIAL, *ALIASES):
        return models_dir / ALIASES.get(name, name)
    if os.path.isdir(name):
        return Path(name)
    near = difflib.get_close_matches(name, [*folders, *OFFICIAL, *ALIASES], n=1)
    raise ValueError(
        f"there is no model {str(model_size)!r}: it must be a size ({', '.join([*OFFICIAL, *ALIASES])}), "
        f"a folder in {models_dir} ({', '.join(folders) or 'there is none'}) or a path"
        + (f"; did you mean {near[0]}?" if near else "")
        + (by_hand_from_hugging_face(models_dir / name.rpartition("/")[2]) if re.fullmatch(ID, name) else "")
    )


def by_hand_from_hugging_face(folder):
    return (
        "; if that is its name at Hugging Face, put its config.json, model.safetensors, vocab.json and merges.txt "
        f"(or tokenizer.json) into {folder} and run again with --model_size {folder.name}"
    )


def expand(path):
    return os.path.expanduser(os.path.expandvars(str(path)))


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
    if folder.parent == Path(expand(models_dir)) and checkpoint_index(folder).name == INDEX:
        return OFFICIAL.get(folder.name, {})
    return {}


# ---- download and verify ---------------------------------------------------------------------------------------


def provide(folder, names, official):
    """Make sure that the files `names` are in `folder`: the official ones are downloaded, others must be there."""
    missing = [name for name in names if not is_complete(folder / name, official)]
    if not missing:
        return
    if not official:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: the folder of a model holds {', '.join(TEXT_FILES + WEIGHT_FILES)} "
            f"(or {COPY} in place of the last three); copy there what is missing. In the layout of Hugging Face it "
            "holds config.json, in nanoGPT's ckpt.pt; README.md says what else"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for name in missing:
                if not is_complete(folder / name, official):  # another process may just have brought it
                    download(folder / name, *official[name])
    except OSError as error:
        raise CheckpointError(
            f"cannot download to {folder}: {error}; make room, make it writable or choose another --models_dir"
        ) from error


def is_complete(path, official):
    size, _ = official.get(path.name, (None, None))
    return path.is_file() and size in (None, path.stat().st_size)


def download(target, size, sha256):
    """Download one file, in as many tries as BACK_OFF allows, each of which goes on where the one before ended.

    size (bytes), sha256: of the official file, or None. CheckpointError: it cannot be had, or is not the official one.
    """
    import requests

    base_url = (os.environ.get("PICOGPT_MODELS_URL") or BASE_URL).rstrip("/")
    url = f"{base_url}/{target.parent.name}/{target.name}"
    part = target.with_name(f"{target.name}.part")
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    for wait in (*BACK_OFF, None):
        try:
            digest = receive(url, part, size)
            break
        except requests.RequestException as error:
            if wait is None or not isinstance(error, passing):
                raise CheckpointError(by_hand(url, target.parent, error)) from error
            notice(f"{url}: {reason(error)}; trying again")
        time.sleep(wait)
    verify(part, url, "bytes", size, part.stat().st_size)
    verify(part, url, "SHA-256", sha256, digest)
    os.replace(part, target)


def receive(url, part, size):
    """Append to `part` what it lacks of `url`; return the SHA-256 of the whole, computed on the way.

    Raises what requests does, and so: requests.ConnectionError where another try may help, HTTPError where it cannot.
    """
    import requests
    from tqdm import tqdm

    start, digest = part.stat().st_size if part.exists() else 0, sha256_of(part)
    if start == size:
        return digest.hexdigest()
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if not goes_on(response, start, part):
            start, digest = 0, hashlib.sha256()
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else size
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with open(part, "ab" if start else "wb") as file, bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                if size and file.tell() > size:
                    break
            sync(file)
            if total and file.tell() < total:
                raise requests.ConnectionError(f"the connection ended after {file.tell():,} of {total:,} bytes")
    return digest.hexdigest()


def goes_on(response, start, part):
    """Whether the answer is what follows the first `start` bytes (206) or the whole file (200); else raise."""
    import requests

    status, answer = response.status_code, f"the server answered {response.status_code} {response.reason}"
    if status == 429 or status >= 500:
        raise requests.ConnectionError(answer)
    following = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == 416 or (status == 206 and not following):
        part.unlink(missing_ok=True)
        raise requests.ConnectionError(f"{answer} when asked for what follows byte {start:,}")
    if status not in (200, 206):
        raise requests.HTTPError(answer)
    if "text/html" in response.headers.get("Content-Type", ""):
        raise requests.HTTPError("the server answered with a web page in place of the file")
    return following


def sha256_of(path):
    """Return a SHA-256 that has seen the file, if there is one, and can be shown more."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest


def verify(part, url, what, expected, found):
    """Raise CheckpointError, and delete `part`, unless what was found is what is known of the official file."""
    if expected not in (None, found):
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{url} is not the official file: expected {what} {expected}, found {found}. What was downloaded is "
            "deleted: run again, and if that does not help look at the address (PICOGPT_MODELS_URL) or for a proxy"
        )


def by_hand(url, folder, error):
    files = ", ".join(sorted((*TEXT_FILES, *WEIGHT_FILES, "model.ckpt.meta")))
    return (
        f"could not download {url}: {reason(error)}.\n"
        f"To do it by hand, put the files {files} (model.ckpt.meta is not needed) "
        f"from {url.rpartition('/')[0]}/ into {folder}.\n"
        "Meanwhile try the bundled model: --model_size tiny"
    )


def reason(error):
    """Return the message of the exception that began it; those around it tell of the inner life of a library."""
    while error.__context__:
        error = error.__context__
    return str(error) or type(error).__name__


# ---- write safely ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder):
    """Wait until no other process writes in `folder`, then make the others wait.

    The lock is the operating system's and goes when the process does, however it ends; the empty file .lock stays.
    """
    with open(folder / ".lock", "wb") as file:
        if not try_lock(file):
            notice(f"waiting for another process that is at work in {folder}")
            while not try_lock(file):
                time.sleep(0.1)
        yield


def try_lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what "somebody has it" is called here and on Windows
        return False
    return True


@contextlib.contextmanager
def new_file(path):
    """Open a file that becomes `path` once it is whole and on the disk, and is gone if anything goes wrong."""
    for left in path.parent.glob(f"{path.name}.*.part"):  # by a process that was killed
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            sync(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(file):
    file.flush()
    os.fsync(file.fileno())


def notice(text):
    """Tell a person at a terminal; say nothing to a log or a pipe."""
    if sys.stderr and sys.stderr.isatty():
        print(text, file=sys.stderr)


# ---- convert ---------------------------------------------------------------------------------------------------


def converted(copy, shapes, is_current, convert):
    """Return the tensors of the safetensors file `copy`, once `convert(path)` has written it unless `is_current()`."""
    try:
        with locked(copy.parent):
            if not is_current():  # another process may just have made it
                convert(copy)
        return map_tensors(copy, shapes)
    except OSError as error:
        notice(f"{copy.parent} cannot be written to ({error}): the model is converted for this run only")
        return convert_for_this_run(copy, shapes, convert)


def convert(index, copy, shapes):
    """Write the tensors of a checkpoint to the safetensors file `copy`, one after the other.

    The memory it takes is that of TensorFlow and of the largest tensor, however many there are.
    CheckpointError: the checkpoint is damaged or does not fit hparams.json. OSError: the copy cannot be written.
    """
    source = sha256_of(index).hexdigest()
    found, read = open_checkpoint(index)
    check(index.with_suffix(""), in_checkpoint(shapes), found)
    write_safetensors(copy, in_safetensors(shapes), source, map(read, in_checkpoint(shapes)))


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
            f"tensorflow-cpu (on macOS: tensorflow), or copy {COPY} there from a machine that has run the model"
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
    with new_file(path) as file, bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in bar:
            file.write(np.ascontiguousarray(tensor, dtype="<f4"))


# ---- map -------------------------------------------------------------------------------------------------------


def is_current(copy, index, shapes):
    """Whether the saved copy is whole and was made from the checkpoint with that index.

    The index holds a checksum of every tensor, so the SHA-256 of this small file stands for all the weights.
    """
    if not (copy.is_file() and index.is_file()):
        return copy.is_file()  # without a checkpoint the copy is all there is
    try:
        found, source = read_header(copy)
    except CheckpointError:
        return False
    if source is None:  # it was not made here, and is not ours to replace
        return True
    return source == sha256_of(index).hexdigest() and found == in_safetensors(shapes)


def map_tensors(copy, shapes, fits="hparams.json"):
    """Return the tensors of a safetensors file, {path: float32 array}, without reading them: a page comes when used.

    CheckpointError: the file is damaged or does not fit hparams.json, or whatever gives the shapes.
    """
    found, _ = read_header(copy)
    check(copy, in_safetensors(shapes), found, fits)
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


# ---- check -----------------------------------------------------------------------------------------------------


def read_hparams(folder):
    """Return the dict in hparams.json. CheckpointError: no GPT-2 is like that."""
    file = folder / "hparams.json"
    hparams = read_json_object(file)
    check_hparams(file, hparams)
    return hparams


def read_json_object(file):
    """Return the dict in a JSON file. CheckpointError: it is something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error}): get it anew") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object: get it anew")
    return value


def check_hparams(file, hparams, names=None):
    """Raise CheckpointError if no GPT-2 is like that. names: what `file` calls them, {our name: its}, if otherwise."""
    optional = {"n_inner": 10_000_000} if "n_inner" in hparams else {}  # the width of mlp, if it is not 4 * n_embd
    for name, largest in {**HPARAMS, **optional}.items():
        value, its_name = hparams.get(name), (names or {}).get(name, name)
        if type(value) is not int or not 1 <= value <= largest:  # type: True is an int to isinstance
            raise CheckpointError(
                f"{file}: {its_name} is {reprlib.repr(value)}; it must be a whole number from 1 to {largest:,}"
            )
    if hparams["n_embd"] % hparams["n_head"]:
        raise CheckpointError(f"{file}: n_embd {hparams['n_embd']} is not a multiple of n_head {hparams['n_head']}")


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


def layout(hparams):
    """Return {path: shape} of every tensor of a GPT-2. This is where their names come from.

    >>> list(layout({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_layer": 12}).items())[:4]
    [('wte', (50257, 768)), ('wpe', (1024, 768)), ('h0/ln_1/g', (768,)), ('h0/ln_1/b', (768,))]
    """
    d, d_inner = hparams["n_embd"], hparams.get("n_inner", 4 * hparams["n_embd"])

    def norm(name):
        return {f"{name}/g": (d,), f"{name}/b": (d,)}

    def linear(name, n_in, n_out):
        return {f"{name}/w": (n_in, n_out), f"{name}/b": (n_out,)}

    attn = linear("attn/c_attn", d, 3 * d) | linear("attn/c_proj", d, d)
    mlp = linear("mlp/c_fc", d, d_inner) | linear("mlp/c_proj", d_inner, d)
    block = norm("ln_1") | attn | norm("ln_2") | mlp
    blocks = {f"h{i}/{path}": shape for i in range(hparams["n_layer"]) for path, shape in block.items()}
    return {"wte": (hparams["n_vocab"], d), "wpe": (hparams["n_ctx"], d)} | blocks | norm("ln_f")


def in_checkpoint(shapes):
    """Return {name: (dtype, shape)} as it is in a checkpoint, where a kernel is that of a convolution over one token.

    >>> in_checkpoint({"wte": (50257, 768), "h0/attn/c_attn/w": (768, 2304)})
    {'model/wte': ('float32', (50257, 768)), 'model/h0/attn/c_attn/w': ('float32', (1, 768, 2304))}
    """
    kernels = {path: (1, *shape) for path, shape in shapes.items() if path.endswith("/w")}
    return {f"model/{path}": ("float32", shape) for path, shape in (shapes | kernels).items()}


def in_safetensors(shapes):
    """Return {name: (dtype, shape)} as it is in a safetensors file, where the names are those Hugging Face gives.

    >>> list(in_safetensors({"wte": (50257, 768), "h0/ln_1/g": (768,), "h0/attn/c_attn/b": (2304,)}))
    ['wte.weight', 'h.0.ln_1.weight', 'h.0.attn.c_attn.bias']
    """
    leaves = {"wte": "wte.weight", "wpe": "wpe.weight", "g": "weight", "w": "weight", "b": "bias"}

    def name(path):
        *branches, leaf = re.sub(r"^h(\d)", r"h/\1", path).split("/")
        return ".".join([*branches, leaves[leaf]])

    return {name(path): ("F32", shape) for path, shape in shapes.items()}


def check(where, expected, found, fits="hparams.json"):
    """Raise CheckpointError unless the tensors found, {name: (dtype, shape)}, are just those that `fits` expects."""

    def describe(tensor):
        return f"{tensor[0]} {list(tensor[1])}" if tensor else "nothing"

    faults = [
        f"{name}: expected {describe(expected.get(name))}, found {describe(found.get(name))}"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(
            f"{where} does not fit {fits} ({'; '.join(faults[:5])}{more}): copy all files of one model there"
        )


# ---- nest ------------------------------------------------------------------------------------------------------


def nest(tensors, n_layer):
    """Return the tensors as a tree: one level for each part of a path, and the blocks h0, h1, ... as a list.

    >>> nest({"wte": 1, "h0/ln_1/g": 2, "h0/ln_1/b": 3, "ln_f/g": 4}, n_layer=1)
    {'wte': 1, 'ln_f': {'g': 4}, 'blocks': [{'ln_1': {'g': 2, 'b': 3}}]}
    """
    tree = {}
    for path, tensor in tensors.items():
        *branches, leaf = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = tensor
    tree["blocks"] = [tree.pop(f"h{i}") for i in range(n_layer)]
    return tree
