"""README, docs/, CONTRIBUTING and --help: commands and Python run, output is real, tables are current, links exist.

A fenced block of shell commands is run unless a comment stands directly before it: <!-- not run: the reason -->. The
bundled model takes the place of larger ones. A block ```text directly after the commands is their output, apart from
white space.
"""

import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

import batch
import cli.command
import encoder
import explore
import gpt2
import gpt2_pico
import sampling
import utils
from cli import help, request
from cli.command_flags import BATCH_FLAGS, EXPLORE_FLAGS
from cli.flags import FLAGS
from runner.command import BATCH
from views.command import EXPLORE

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "models/tiny/README.md")
PAGES += tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<body>.*?)^```$"
    r"(?:(?=\n\n```text\n(?P<output>.*?)^```$))?",
    re.MULTILINE | re.DOTALL,
)
SUMMARY = re.compile(r"\d+ rows? finished, 0 errors: .*; records in .*\n")  # of batch.py
SCRIPT = re.compile(r"python ((?:gpt2|gpt2_pico|batch|explore)\.py)")
SHELL_SYNTAX = set("|<>;$&`")
PIPED = "A cat"  # stdin of the commands
COMMANDS = {
    "gpt2.py": (gpt2.main, help.GPT2),
    "gpt2_pico.py": (gpt2_pico.main, help.PICO),
    "batch.py": (batch.main, BATCH),
    "explore.py": (explore.main, EXPLORE),
}


class Block(NamedTuple):
    page: str
    reason: str | None  # why its commands are not run
    language: str
    body: str
    output: str | None  # the block ```text directly after it

    @property
    def lines(self):
        """The commands, without blank lines and comments."""
        return [line for line in self.body.splitlines() if line.strip() and not line.startswith("#")]


BLOCKS = [Block(page, *match.groups()) for page in PAGES for match in BLOCK.finditer(TEXTS[page])]
RUN = [block for block in BLOCKS if block.language == "sh" and not block.reason]
LINES = [line for block in RUN for line in block.lines if SCRIPT.search(line)]
LINES += [line for _, command in COMMANDS.values() for line in command.examples]
WITH_OUTPUT = [block for block in RUN if block.output]
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.reason]


# ---- commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files that the commands read."""
    (tmp_path / "story.txt").write_text("Once upon a time there was a dog.\n", encoding="utf-8")
    (toml,) = [block.body for block in BLOCKS if block.language == "toml"]
    (tmp_path / "story.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("Once upon a time\nOne day\n", encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "The sun", "id": 7}) + "\n", encoding="utf-8")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(request, "draw_seed", lambda: 2)  # a text of a random seed may end after its first token
    return tmp_path


def with_bundled_model(line):
    """Return the command with the path of its script and the bundled model, as a line for the shell."""
    model = [] if "--toy" in line else ["--models_dir", str(ROOT / "models"), "--model_size", "tiny"]
    line = re.sub(r"--model_size \S+", "", line)
    return SCRIPT.sub(lambda match: f"python {shlex.join([str(ROOT / match[1]), *model])}", line)


def run(line, monkeypatch, capsys, piped=PIPED):
    """Run a command in this process, or in a shell if it needs one; return the exit code, stdout and stderr."""
    line = with_bundled_model(line)
    words = shlex.split(line, comments=True)
    if words[0] != "python" or SHELL_SYNTAX & set("".join(words)):
        return run_in_shell(line, piped)
    script, *arguments = words[1:]
    main, command = COMMANDS[Path(script).name]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
    code = 0
    try:
        cli.command.run(main, command)
    except SystemExit as exit:
        code = exit.code
    return code, *capsys.readouterr()


def run_in_shell(line, piped):
    python = f'python() {{ "{sys.executable}" -W error "$@"; }}\n'
    done = subprocess.run(["sh", "-e", "-c", python + line], input=piped, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_every_command_of_the_project_has_examples():
    for script, least in (("gpt2.py", 10), ("gpt2_pico.py", 1), ("batch.py", 3), ("explore.py", 5)):
        assert sum(f"python {script}" in line for line in LINES) >= least
    assert len(PYTHON) >= 3 and len(WITH_OUTPUT) >= 1


@pytest.mark.parametrize("line", dict.fromkeys(LINES))
def test_a_documented_command_runs(line, folder, monkeypatch, capsys):
    before = set(folder.rglob("*"))
    code, out, err = run(line, monkeypatch, capsys)
    assert (code, SUMMARY.sub("", err)) == (0, "")
    written = b"".join(path.read_bytes() for path in set(folder.rglob("*")) - before)
    assert len(out.encode() + written) > 10


@pytest.mark.parametrize("block", WITH_OUTPUT, ids=lambda block: block.page)
def test_documented_output_is_what_the_commands_print(block, folder, monkeypatch, capsys):
    out = "".join(run(line, monkeypatch, capsys, piped="")[1] for line in block.lines)
    assert out.split() == block.output.split()


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.page)
def test_a_block_without_a_marker_has_only_commands_that_are_run(block):
    assert [line for line in block.lines if not SCRIPT.search(line)] == []


def test_commands_are_in_blocks_of_sh():
    others = [block for block in BLOCKS if block.language != "sh"]
    assert [block for block in others if any(SCRIPT.match(line) for line in block.body.splitlines())] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_marker_stands_directly_before_a_block(page):
    assert TEXTS[page].count("<!-- not run") == sum(block.page == page and bool(block.reason) for block in BLOCKS)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.page)
def test_documented_python_runs(block, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["my_sampler.py", "One day", "--model_size", "tiny"])  # for a script
    monkeypatch.setattr(sys, "stdin", None)
    exec(compile(block.body, block.page, "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert len(out) > 10 and err == ""


# ---- flags, tables, figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "command", "flags"),
    [
        ("docs/cli.md", help.GPT2, FLAGS),
        ("docs/batch.md", BATCH, BATCH_FLAGS),
        ("docs/explore.md", EXPLORE, EXPLORE_FLAGS),
    ],
)
def test_every_flag_is_in_the_help_and_in_the_docs(page, command, flags):
    text = TEXTS[page] + TEXTS["docs/cli.md"]
    assert [name for name in flags if not re.search(rf"`--{name}[ `]", text)] == []
    assert [name for name in flags if not re.search(rf"--{name}\b", help.render(command))] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_current(page):
    """Run `python docs/make_tables.py` if this fails."""
    tables = runpy.run_path(str(ROOT / "docs" / "make_tables.py"))
    assert tables["updated"](TEXTS[page]) == TEXTS[page]


def test_the_table_script_writes_every_page_with_a_table():
    tables = runpy.run_path(str(ROOT / "docs" / "make_tables.py"))
    with_table = {ROOT / page for page in PAGES if "<!-- table: " in TEXTS[page]}
    assert with_table <= {*tables["PAGES"]}
    used = {name for text in TEXTS.values() for name in re.findall("<!-- table: (.+?) -->", text)}
    assert used == {*tables["TABLES"]}


def test_figures_in_the_text_are_those_of_the_results():
    tables = runpy.run_path(str(ROOT / "docs" / "make_tables.py"))
    records = tables["results"]("bench.json")["records"]
    short, long = records["decode at 100 tokens"], records["decode at 1000 tokens"]

    def ratio(above, below):
        return median(a / b for a, b in zip(above, below, strict=True))

    with_cache = [f"{ratio(series['gpt2_pico.py'], series['gpt2.py']):.0f} times" for series in (short, long)]
    longer = f"falls to {ratio(short['gpt2.py'], long['gpt2.py']):.2f}"
    products = f"{ratio(short['the machine'], short['gpt2.py']):.2f} of the time"
    for page, figures in (("README.md", with_cache), ("docs/speed.md", [*with_cache, longer, products])):
        text = " ".join(TEXTS[page].split())
        assert [figure for figure in figures if figure not in text] == []


PUBLIC = {
    utils: ("load", "find_model", "load_encoder_hparams_and_params"),
    utils.Model: ("encode", "complete", "stream", "records"),
    gpt2: ("generate",),
    encoder: ("bytes_to_unicode", "bpe"),
    sampling: (
        *(
            "softmax_with_temperature",
            "log_softmax",
            "entmax",
            "distribution",
            "greedy",
            "sample_categorical",
            "sample",
        ),
        *("keep_top_k", "keep_top_p", "keep_min_p", "keep_typical", "Mirostat", "make_sampler"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram", "ban", "bias"),
        *("make_logits_processor", "temperature_sampling", "top_k_sampling", "top_p_sampling", "sample_from_logits"),
    ),
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_the_help_of_a_public_function_has_an_example(module, name):
    assert ">>> " in getattr(module, name).__doc__


@pytest.mark.parametrize("name", ["temperature_sampling", "top_k_sampling", "top_p_sampling", "sample_from_logits"])
def test_the_help_of_a_function_of_the_tutorials_shows_how_to_pass_it_to_generate(name):
    model = utils.load("tiny")
    (line,) = re.findall(r">>> (sampler = lambda .*)", getattr(sampling, name).__doc__)
    space = vars(sampling) | {}
    exec(line, space)
    new = list(gpt2.generate(model.encode("One day"), model.params, model.n_head, 3, space["sampler"]))
    assert len(new) == 3


# ---- the pages -------------------------------------------------------------------------------------------------


def test_the_readme_has_at_most_130_lines_of_at_most_120_columns():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_shows_the_two_commands_and_output_in_its_first_20_lines():
    beginning = "\n".join(TEXTS["README.md"].splitlines()[:20])
    assert "make run" in beginning and "make test" in beginning and "```text" in beginning


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text(encoding="utf-8")), link


def anchors(text):
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_newest_version_of_the_changelog_has_a_date_and_is_that_of_the_commands():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M)[0] == f"{cli.command.VERSION}, 2026-11-27"


def test_every_test_file_that_the_docs_name_exists():
    names = {name for text in TEXTS.values() for name in re.findall(r"\btest_\w+\.py\b", text)}
    assert names - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()


def test_every_page_of_the_docs_is_linked_from_the_index_and_the_readme():
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "README.md":
            assert f"(docs/{page.name})" in TEXTS["README.md"]
            assert f"({page.name})" in TEXTS["docs/README.md"]
