"""Write the tables of the documentation from the code and the recorded results: python docs/make_tables.py

A table stands between two comments. Everything between them is replaced:

    <!-- table: options of gpt2.py -->
    <!-- end of table -->
"""

import ast
import json
import re
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import sampling
from checkpoints import download
from cli import help, json_record
from cli.command_flags import BATCH_FLAGS, EXPLORE_FLAGS
from cli.flags import FLAGS, ROW_FLAGS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)

# ---- Markdown --------------------------------------------------------------------------------------------------


def table(heading, rows):
    """Return the lines of a table. heading: the names of the columns."""
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines]


def code(text):
    return f"`{text}`"


def listed(names):
    return ", ".join(map(code, names))


# ---- options ---------------------------------------------------------------------------------------------------


def option_table(flags):
    rows = [[code(f"--{name} {flag.metavar}".strip()), default(flag), flag.help] for name, flag in flags.items()]
    return table(["option", "default", "effect"], rows)


def default(flag):
    if flag.default is False:
        return "off"
    return "" if flag.default in (None, ()) else code(flag.default)


def gpt2_options():
    lines = []
    for group, heading in help.GROUPS.items():
        flags = {name: flag for name, flag in FLAGS.items() if flag.group == group}
        if flags:
            lines += [f"**{heading.split(':')[0]}**", "", *option_table(flags), ""]
    return lines[:-1]


def other_names():
    rows = [
        [code(f"--{name}"), ", ".join(code(f"-{alias}" if len(alias) == 1 else f"--{alias}") for alias in flag.aliases)]
        for name, flag in FLAGS.items()
        if flag.aliases
    ]
    return table(["option", "other names"], rows)


def exit_codes():
    return table(["exit code", "meaning"], help.EXIT_CODES.items())


def environment():
    rows = [[listed(names.split(", ")), text] for names, text in help.ENVIRONMENT.items()]
    return table(["variable", "meaning"], rows)


def json_fields():
    return table(["field", "meaning"], [[code(name), text] for name, text in json_record.FIELDS.items()])


def batch_options():
    return option_table({name: flag for name, flag in BATCH_FLAGS.items() if flag.group == "run"})


def row_settings():
    return [f"{listed(ROW_FLAGS)}."]


def explore_options():
    """Return the table of the options that gpt2.py does not have, or describes differently."""
    own = {name: flag for name, flag in EXPLORE_FLAGS.items() if name not in FLAGS or flag.help != FLAGS[name].help}
    return option_table(own)


# ---- sampling --------------------------------------------------------------------------------------------------


def strategies():
    rows = []
    for name in sampling.STRATEGIES:
        options = (f"--{knob} {sampling.KNOBS[knob][-1]:g}" for knob in sampling.STRATEGIES[name])
        rows.append([code(name), listed(options) or "no option"])
    return table(["`--strategy`", "stands for"], rows)


def presets():
    rows = [[code(name), knobs["temperature"], knobs["top_p"]] for name, knobs in sampling.PRESETS.items()]
    return table(["`--preset`", "temperature", "top_p"], rows)


# ---- recorded results ------------------------------------------------------------------------------------------

RESULTS = ROOT / "benchmarks" / "results"
OURS = "gpt2.py"
DECODE = "decode at 100 tokens"
COLUMNS = {  # of bench.json -> of the table
    DECODE: "one token, after 100",
    "decode at 1000 tokens": "one token, after 1,000",
    "prefill of 900 tokens": "a prompt of 900 tokens",
    "first token of the process": "a process, to its first token",
    "process with 40 tokens": "a process, 40 tokens",
}
PROGRAMS = {  # of bench.json -> of the table
    "transformers": "transformers (torch)",
    "llama.cpp F32": "llama.cpp F32",
    "CTranslate2 float32": "CTranslate2 float32",
    "gpt2_pico.py": "gpt2_pico.py",
    "gpt2_pico.py in float64": "gpt2_pico.py in float64",
}
INT8 = "gpt2.py int8"
NUMBA_PROGRAMS = {
    "gpt2.py": "gpt2.py without numba",
    "transformers": "transformers (torch)",
    "llama.cpp F32": "llama.cpp F32",
    "CTranslate2 float32": "CTranslate2 float32",
}
INT8_PROGRAMS = {
    "gpt2.py": "gpt2.py in float32, without numba",
    "llama.cpp Q8_0": "llama.cpp Q8_0",
    "CTranslate2 int8": "CTranslate2 int8",
}
BATCH_PROGRAMS = {  # of batch.json -> of the table
    "gpt2.py, one by one": "gpt2.py, one prompt after another",
    "transformers, 64": "transformers, batches of 64",
    "CTranslate2 float32, 64": "CTranslate2 float32, batches of 64",
}
SHAPES = {  # n_layer, n_head, n_embd
    "124M": (12, 12, 768),
    "355M": (24, 16, 1024),
    "774M": (36, 20, 1280),
    "1558M": (48, 25, 1600),
}


def results(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def relative_speed(records, title, program, ours=OURS):
    """Return the speed of `ours` relative to a program: the median of the rounds, None if it was not measured."""
    series = records[title]
    if program not in series:
        return None
    return median(theirs / own for theirs, own in zip(series[program], series[ours], strict=True))


def factor(ratio):
    if ratio is None:
        return ""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.2f}"


def speed():
    records = results("bench.json")["records"]
    rows = [
        [name, *(factor(relative_speed(records, title, program)) for title in COLUMNS)]
        for program, name in PROGRAMS.items()
    ]
    return table(["relative to", *COLUMNS.values()], rows)


def compiled_speed(ours, programs, run):
    """Return the table of the operands that need numba. run: the file of the results of one run."""
    records = results(run)["records"]
    columns = {title: name for title, name in COLUMNS.items() if ours in records[title]}
    if ours == INT8:
        columns |= {"many prompts": "64 prompts, 20 tokens each"}
    rows = [
        [name, *(factor(relative_speed(records, title, program, ours)) for title in columns)]
        for program, name in programs.items()
    ]
    return table(["relative to", *columns.values()], rows)


def speed_with_numba(run="bench.json"):
    return compiled_speed("gpt2.py with numba", NUMBA_PROGRAMS, run)


def speed_of_int8(run="bench.json"):
    return compiled_speed(INT8, INT8_PROGRAMS, run)


def several_texts_in_int8():
    rows = []
    for machine, run in (("AVX-512", "bench.json"), ("AVX2", "avx2/bench.json")):
        records = results(run)["records"]
        ratios = [relative_speed(records, f"{n} sequences at once", OURS, INT8) for n in (4, 16)]
        rows.append([machine, *map(factor, ratios)])
    return table(["machine", "4 texts", "16 texts"], rows)


def batch_speed():
    records = results("batch.json")["records"]
    rows = [
        [name, factor(relative_speed(records, "batches", program, ours="batch.py, 64"))]
        for program, name in BATCH_PROGRAMS.items()
    ]
    return table(["relative to", "batch.py, 64 slots"], rows)


def official_models():
    bench = results("bench.json")
    heading = ["model", "other names", "download", "n_layer, n_head, n_embd", "memory", "speed"]
    return table(heading, [model_row(size, bench) for size in download.OFFICIAL])


def model_row(size, bench):
    """Return the row of an official model. The speed is relative to 124M."""
    others = [alias for alias, name in download.ALIASES.items() if name == size]
    n_bytes = sum(size or 0 for size, _ in download.OFFICIAL[size].values())
    is_124m = size == "124M"
    title = DECODE if is_124m else f"decode of {size}"
    records = bench["records"]
    relative = median(base / ours for base, ours in zip(records[DECODE][OURS], records[title][OURS], strict=True))
    peak = bench["memory"][OURS if is_124m else f"{OURS}, {size}"]["peak"]
    shape = ", ".join(map(str, SHAPES[size]))
    return [code(size), listed(others), gigabytes(n_bytes, 1), shape, gigabytes(peak, 2), factor(relative)]


def gigabytes(n_bytes, digits):
    return f"{n_bytes / 1e9:.{digits}f} GB"


# ---- modules ---------------------------------------------------------------------------------------------------

PARTS = {
    "Read, in this order": ("gpt2_pico.py", "gpt2.py", "sampling.py", "encoder.py", "utils.py"),
    "Run, besides gpt2.py": ("batch.py", "explore.py"),
}
PACKAGES = {
    "cli": "the command line, shared by the three commands",
    "checkpoints": "files -> weights tree, one module per format",
    "engine": "the same forward pass for many sequences, and faster",
    "runner": "batch runs: every row exactly once",
    "views": "the views of explore.py",
}


def layout():
    """Return a tree of the modules with the first line of each docstring."""
    lines = []
    for part, names in PARTS.items():
        lines += [part, *(module_line(ROOT / name) for name in names), ""]
    for package, about in PACKAGES.items():
        modules = sorted(path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")
        lines += [f"{package + '/':18}{about}", *map(module_line, modules), ""]
    return ["```", *lines[:-1], "```"]


def module_line(path):
    summary = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    name = path.name if path.parent == ROOT else str(Path(*path.relative_to(ROOT).parts[1:]))
    return f"  {name:20}{summary.removesuffix('.')}"


# ---- pages -----------------------------------------------------------------------------------------------------

TABLES = {
    "options of gpt2.py": gpt2_options,
    "other names": other_names,
    "exit codes": exit_codes,
    "environment variables": environment,
    "JSON fields": json_fields,
    "options of batch.py": batch_options,
    "row settings": row_settings,
    "options of explore.py": explore_options,
    "strategies": strategies,
    "presets": presets,
    "speed": speed,
    "speed with numba": speed_with_numba,
    "speed with numba, AVX2": lambda: speed_with_numba("avx2/bench.json"),
    "speed of int8": speed_of_int8,
    "speed of int8, several texts": several_texts_in_int8,
    "speed of int8, AVX2": lambda: speed_of_int8("avx2/bench.json"),
    "speed of batches": batch_speed,
    "official models": official_models,
    "layout": layout,
}


def updated(text: str) -> str:
    """Return the text of a page with current tables."""
    return MARKED.sub(lambda match: "\n".join([match[1], *TABLES[match[2]](), "", match[3]]), text)


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if updated(text) != text:
            page.write_text(updated(text), encoding="utf-8")
            print(f"updated {page.relative_to(ROOT)}")
