"""Build a GGUF file (checkpoints/gguf_file.py describes the format)."""

import struct


def gguf_file_of(settings, infos, data):
    """Return the content of a file. settings: {key: value}. infos: {name of a tensor: Info}."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(settings))
    head += b"".join(string_of(key) + value_of(value) for key, value in settings.items())
    for name, info in infos.items():
        axes = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *info.shape[::-1])
        head += string_of(name) + axes + struct.pack("<IQ", info.kind, info.offset)
    return head + bytes(-len(head) % 32) + data


def string_of(text):
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def value_of(value):
    """Return a value after the number of its type; what GGUF cannot hold becomes a string."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int) and 0 <= value < 2**64:
        return struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, list) and all(type(part) is int for part in value):
        return struct.pack(f"<IIQ{len(value)}q", 9, 11, len(value), *value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string_of(str(part)) for part in value)
    return struct.pack("<I", 8) + string_of(str(value).encode("utf-8", "replace").decode())
