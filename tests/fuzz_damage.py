"""Damage to the content of model files, for fuzz_models.py: each function returns a changed content.

General changes know nothing about a format. The others change a part that checks of a file's form protect: a value in
a header, an opcode in a pickle, an index with new checksums.
"""

import io
import json
import pickle
import warnings
import zipfile

import numpy as np
from gguf_builder import gguf_file_of
from index_builder import resealed

from checkpoints import gguf_file
from checkpoints.files import CheckpointError

FORGED = "\x1b[31m\nError: forged\r"
VALUES = [None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, 0.5, "", "x", "x" * 10_000, FORGED, [], {}, [[]]]
VALUES += [
    {"a": 1},
    ["a", "b"],
    "gelu",
    float("nan"),
    float("inf"),
    "\ud800",
    "\0",
    "../../etc/passwd",
    12,
    64,
    9_999_999,
]
LITERALS = [b"9" * 5000, b"[" * 100_000, b"1e999", b"-0", b"NaN", b'"' + b"\\u0000" * 50 + b'"', b"{" * 3000, b"\xff"]
OPCODES = [
    b"}",
    b"]",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"R",
    b"b",
    b"Q",
    b"N",
    b"2",
]
OPCODES += [
    b"K\x01",
    b"\x88",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"X\x01\x00\x00\x00a",
    b"\x8c\x01b",
    b"\x93",
    b"0",
    b"d",
    b"l",
]
OPCODES += [b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"."]
OPCODES += [
    b"cos\nsystem\n",
    b"S'\\q'\n",
    b"L" + b"9" * 5000 + b"L\n",
    b"I1\n",
    b"F1\n",
    b"V\\ud800\n",
    b"\x8a\x08" + b"\xff" * 8,
]
OPCODES += [
    b"c\x1b[31m\nx\n",
    b"r\xff\xff\xff\x7f",
    b"j\x00\x00\x00\x00",
    b"\x81",
    b"i",
    b"o",
    b"B\x02\x00\x00\x00ab",
    b"P1\n",
]


def flip(rng, raw):
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if raw:
            near_an_end = rng.choice([rng.randrange(len(raw)), rng.randrange(min(400, len(raw)))])
            place = rng.choice([near_an_end, len(raw) - 1 - near_an_end])
            raw[place] = rng.choice([raw[place] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255])
    return bytes(raw)


def truncate(rng, raw):
    return raw[: rng.randrange(len(raw) + 1)]


def cut(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + raw[start + rng.choice([1, 8, 100]) :]


def repeat(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[: start + rng.choice([1, 8, 100])] + raw[start:]


def insert(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + rng.randbytes(rng.choice([1, 8, 200])) + raw[start:]


def zero_tail(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + bytes(len(raw) - start)


def nonsense(rng, raw):
    return rng.choice(
        [
            b"",
            b"\n",
            b"<html>404</html>",
            rng.randbytes(100),
            bytes(1000),
            b"\xef\xbb\xbf" + raw,
            b"PK",
            FORGED.encode(),
        ]
    )


def swap_value(rng, raw):
    """Replace a value or a key of a JSON text, or a number in it, by a hostile one."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return flip(rng, raw)
    if rng.random() < 0.2:
        text = json.dumps(value).encode()
        places = [i for i, byte in enumerate(text) if byte in b"0123456789[{"]
        place = rng.choice(places or [0])
        return text[:place] + rng.choice(LITERALS) + text[place + 1 :]
    node = value
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            if isinstance(node, dict) and rng.random() < 0.3:
                node[rng.choice(["x" * 5000, FORGED, "", "\ud800", key + "x"])] = node.pop(key)
            else:
                node[key] = rng.choice(VALUES)
            break
        node = node[key]
    return json.dumps(value).encode()


def change_header(rng, raw):
    """Change the header of a safetensors file, or only its length."""
    size = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.2:
        return rng.choice([0, 2**63, 2**40, size + 1, size - 1, 2**26, len(raw)]).to_bytes(8, "little") + raw[8:]
    header = swap_value(rng, raw[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def collide(rng, raw):
    """Return a vocabulary whose ids, or a pickle whose keys, have the same place in a dict."""
    if rng.random() < 0.9:
        return flip(rng, raw)
    numbers = [i * (2**61 - 1) for i in range(20_000)]
    if raw[:1] == b"{":
        return json.dumps({str(i): number for i, number in enumerate(numbers)}).encode()
    return pickle.dumps({"stoi": dict.fromkeys(numbers, 0)})


def change_pickle(rng, raw):
    program = b"".join(rng.choice(OPCODES) for _ in range(rng.randrange(40)))
    start = rng.randrange(2, len(raw) + 1) if len(raw) > 2 else 0
    kind = rng.random()
    if kind < 0.3:
        return b"\x80\x04" + program + b"."
    if kind < 0.6:
        return raw[:start] + program + raw[start:]
    if kind < 0.97:
        return rng.choice([flip, truncate])(rng, raw)
    if kind < 0.98:
        return collide(rng, b"")
    return rng.choice([rng.choice(OPCODES) * 20_000, b"\x80\x02" + b"}" * 500_000 + b"."])


def change_archive(rng, raw):
    """Change the pickle or another member of a file of torch.save and build the archive again."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return flip(rng, raw)
    pickles = [name for name in members if name.endswith("data.pkl")]
    storages = [name for name in members if "/data/" in name]
    kind = rng.randrange(6)
    if kind <= 2 and pickles:
        members[pickles[0]] = change_pickle(rng, members[pickles[0]])
    elif kind == 3 and pickles:  # all tensors share a storage
        key = rng.choice(storages).rpartition("/")[2].encode()
        members[pickles[0]] = members[pickles[0]].replace(b"X\x01\x00\x00\x001q", b"X\x01\x00\x00\x00" + key[:1] + b"q")
    elif kind == 4 and storages:
        name = rng.choice(storages)
        members[name] = rng.choice([truncate, flip, zero_tail, insert])(rng, members[name])
    else:
        name = rng.choice(list(members))
        members[rng.choice([FORGED, "../x", name + "x", "x" * 3000])] = members.pop(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return archived(members, rng.choice([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED]))


def archived(members, compression):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


STREAM_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def change_stream(rng, raw):
    """Change a pickle of a file of torch.save in its older form, which begins with three small ones."""
    if not raw.startswith(STREAM_MAGIC) or rng.random() < 0.2:
        return flip(rng, raw)
    start = rng.randrange(len(STREAM_MAGIC), min(len(raw), 3000))
    program = b"".join(rng.choice(OPCODES) for _ in range(rng.randrange(1, 8)))
    return raw[:start] + program + raw[start + rng.choice([0, 0, len(program)]) :]


def change_torch(rng, raw):
    return change_archive(rng, raw) if raw[:2] == b"PK" else change_stream(rng, raw)


def change_index(rng, raw):
    """Change bytes of a checkpoint's index under valid checksums."""
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 6])):
        changed[rng.randrange(len(changed))] = rng.choice([rng.randrange(256), 0, 0x7F, 0xFF])
    return resealed(bytes(changed), raw)


def change_number(rng, raw):
    """Replace a number of 4 or 8 bytes, mostly near the start, where formats have their header."""
    numbers = [0, 1, 2, 3, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 50257, 9_999_999]
    size = rng.choice([4, 8])
    place = rng.choice([4 * rng.randrange(12), rng.randrange(len(raw) + 1)])
    return raw[:place] + (rng.choice(numbers) & (2 ** (8 * size) - 1)).to_bytes(size, "little") + raw[place + size :]


def change_setting(rng, raw):
    """Change a setting, or the description of a tensor, in a GGUF file and write the file again."""
    try:
        settings, infos, data = gguf_file.read_head(np.frombuffer(raw, np.uint8), "x.gguf")
    except CheckpointError:
        return change_number(rng, raw)
    if rng.random() < 0.7:
        key = rng.choice(list(settings))
        settings[key] = rng.choice([*VALUES[:14], float("nan"), ["a", 1], [""], [None], settings.pop(key)])
    else:
        name = rng.choice(list(infos))
        info = infos.pop(name)
        shape = rng.choice([info.shape, info.shape[::-1], (), (0,), (2**40, 2**23), (2**64 - 1,), (1,) * 4])
        kind = rng.choice([info.kind, 0, 1, 2, 8, 30, 99])
        infos[rng.choice([name, FORGED, ""])] = gguf_file.Info(shape, kind, rng.choice([info.offset, 1, 2**63]))
    return gguf_file_of(settings, infos, raw[data:])


def change_lines(rng, raw):
    """Change lines of a vocabulary or a list of merges."""
    lines = raw.split(b"\n")
    for _ in range(rng.choice([1, 3])):
        place = rng.randrange(len(lines) + 1)
        words = [b"", b" ", b"a", b"a b", b"\xff", b"x" * 5000, FORGED.encode(), "ĠĠ Ġ".encode()]
        other = rng.choice([*words, *lines[-2:]])
        lines[place : place + rng.choice([0, 1])] = [other]
    return b"\n".join(lines)


GENERAL = [flip, flip, truncate, cut, repeat, insert, zero_tail, nonsense]
SPECIAL = {
    ".json": [swap_value, swap_value, swap_value, collide],
    ".safetensors": [change_header] * 3,
    ".pt": [change_torch] * 3,
    ".pth": [change_torch] * 3,
    ".bin": [change_torch, change_torch, change_number],
    ".pkl": [change_pickle, change_pickle, collide],
    ".index": [change_index] * 3,
    ".gguf": [change_setting, change_setting, change_number],
    ".txt": [change_lines] * 2,
    ".bpe": [change_lines] * 2,
}


def damage(rng, name, raw):
    """Return (what was done, the damaged content) for a file of that name."""
    special = SPECIAL.get(name[name.rfind(".") :], [])
    change = rng.choice(GENERAL + special * 2)
    return change.__name__, change(rng, raw)
