"""`--list`: the models that are present, and those that can be downloaded."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from checkpoints import download, formats
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from checkpoints.places import Places, beside_gpt2, names_in
from checkpoints.tensors import tensor_shapes

PARAMETERS = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1558M": 1_557_611_200}
COLUMNS = ("name", "format", "parameters", "context", "on disk", "state")


def listing(places: Places, as_json: bool) -> str:
    """Return the list of models, as a table or as a line of JSON for each."""
    present = [model for folder in folders_of(places) for model in models_in(folder)]
    missing = list(downloadable({model["name"] for model in present}))
    if as_json:
        return "".join(json.dumps(model, ensure_ascii=False) + "\n" for model in [*present, *missing])
    return "\n".join([*table(present, missing), ""])


def folders_of(places: Places) -> list[Path]:
    """Return the places that exist, each once; the bundled model's is among them."""
    found = {os.path.realpath(folder): folder for folder in (beside_gpt2(), *places.folders[::-1])}
    return [folder for folder in reversed(found.values()) if folder.is_dir()]


def models_in(folder: Path) -> Iterator[dict]:
    """Yield a record for each model in a folder."""
    for name in names_in(folder):
        try:
            found = formats.recognize(folder / name)
        except (CheckpointError, OSError):
            continue
        if found:
            yield describe(folder / name, found)


def describe(path: Path, found: formats.Format) -> dict:
    """Return the record of a model. A model that cannot be read has a state that says why."""
    record = {"name": path.name, "format": found.name, "parameters": None, "context": None}
    record |= {"bytes": None, "state": "ready", "path": str(path)}
    try:
        record["bytes"] = size_of(path)
        hparams = found.read_sizes(path)
        record["parameters"] = sum(map(math.prod, tensor_shapes(hparams).values()))
        record["context"] = hparams["n_ctx"]
        record["state"] = found.state(path)
    except (CheckpointError, OSError) as error:
        record["state"] = f"not readable: {abbreviated(error, 300)}"
    return record


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def downloadable(present: set[str]) -> Iterator[dict]:
    """Yield a record for each of OpenAI's models that is not present."""
    for size, table in download.OFFICIAL.items():
        if size not in present:
            n_bytes = sum(n or 0 for n, _ in table.values())
            yield {
                "name": size,
                "format": "OpenAI",
                "parameters": PARAMETERS.get(size),
                "context": 1024,
                "bytes": n_bytes,
                "state": "can be downloaded",
                "path": None,
            }


# ---- the table -------------------------------------------------------------------------------------------------


def table(present: list[dict], missing: list[dict]) -> Iterator[str]:
    """Yield the lines of the table, with a heading for each folder."""
    rows = [row_of(model) for model in [*present, *missing]]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS) - 1)]
    yield line(COLUMNS, widths)
    place = ""
    for model, row in zip([*present, *missing], rows, strict=True):
        its_place = named(Path(model["path"]).parent) if model["path"] else "to be downloaded with --model_size NAME"
        if its_place != place:
            place = its_place
            yield ""
            yield f"{place}:"
        yield line(row, widths)


def row_of(model: dict) -> tuple[str, ...]:
    count = "?" if model["parameters"] is None else rounded(model["parameters"])
    context = "?" if model["context"] is None else str(model["context"])
    size = "?" if model["bytes"] is None else rounded(model["bytes"]) + "B"
    state = "" if model["path"] is None else model["state"]
    return (abbreviated(model["name"], 30), model["format"], count, context, size, state)


def line(row: tuple[str, ...], widths: list[int]) -> str:
    name, kind, *numbers, state = row
    cells = [name.ljust(widths[0]), kind.ljust(widths[1])]
    cells += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join([*cells, state]).rstrip()


def rounded(n: int) -> str:
    """Return a number with three digits and a suffix.

    >>> rounded(124_439_808), rounded(3_400_000), rounded(950)
    ('124 M', '3.40 M', '950 ')
    """
    for suffix, unit in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= unit:
            return f"{n / unit:#.3g} {suffix}".replace(". ", " ")
    return f"{n} "
