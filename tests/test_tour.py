"""docs/tour.md: its session of Python and its sampler print the output shown, and its diagrams are current.

test_docs.py runs the other commands of the page.
"""

import doctest
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
SESSION = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.S | re.M))
(SAMPLER,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M)
((COMMAND, OUTPUT),) = re.findall(
    r"^```sh\n(python my_gumbel.py [^\n]*)\n```\n\n```text\n(.*?)^```$", TEXT, re.S | re.M
)
DIAGRAMS = runpy.run_path(str(ROOT / "docs" / "make_diagrams.py"))["diagrams"]()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the reader's my_gumbel.py, from which Python imports."""
    (tmp_path / "my_gumbel.py").write_text(SAMPLER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_gumbel", None)


def failures_of(session):
    """Return (the number of snippets, the report on those with other output)."""
    report = []
    test = doctest.DocTestParser().get_doctest(session, {"__name__": "__main__"}, "docs/tour.md", None, 0)
    with np.printoptions():
        found = doctest.DocTestRunner().run(test, out=report.append)
    return found.attempted, "".join(report)


def test_the_session_prints_what_the_tour_shows(folder):
    n_snippets, report = failures_of(SESSION)
    assert report == ""
    assert n_snippets > 60


def test_a_wrong_number_in_the_tour_is_found(folder):
    n_wrong = failures_of(SESSION.replace("[391, 333, 11, 258]", "[391, 333, 11, 259]"))[1].count("Failed example")
    assert n_wrong == 1


def test_every_snippet_of_the_tour_belongs_to_the_session():
    assert TEXT.count("\n>>> ") == SESSION.count("\n>>> ") + SESSION.startswith(">>> ")


def test_the_readers_sampler_prints_what_the_tour_shows(folder):
    words = [sys.executable, "-W", "error", *shlex.split(COMMAND)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, input="", timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, OUTPUT.split())


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_what_the_script_draws(name):
    """Run `python docs/make_diagrams.py` if this fails."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == DIAGRAMS[name]


def test_the_tour_shows_every_diagram():
    assert re.findall(r"\]\((tour-\w+\.svg)\)", TEXT) == list(DIAGRAMS)
