"""cli/threads.py: --threads, the environment, and the quota of a control group."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, requires

from cli import threads


@pytest.fixture
def quota(monkeypatch):
    """Set the number of CPUs that the control group allows."""

    def set_quota(n, n_cpus=8):
        monkeypatch.setattr(threads, "quota", lambda: n)
        monkeypatch.setattr(threads, "n_cores", lambda: n_cpus)

    set_quota(None)
    return set_quota


@pytest.mark.parametrize(
    ("arguments", "n"),
    [
        (["x", "--threads", "3"], 3),
        (["--threads=3", "x"], 3),
        (["-threads", "3"], 3),
        (["--threads", "2", "--threads", "3"], 3),
        (["--", "--threads", "3"], None),
        (["x"], None),
        (["--threads"], None),
        (["--threads", "many"], None),
        (["--threads", "0"], None),
        (["--threads", "9" * 400], None),
        (["--threads", "٣"], 3),
    ],
)
def test_the_flag_sets_all_variables(quota, arguments, n):
    environment = {}
    threads.limit(arguments, environment)
    assert environment == ({} if n is None else dict.fromkeys(threads.CHOSEN, str(n)))


def test_the_flag_replaces_variables_and_a_quota_does_not(quota):
    environment = {"OMP_NUM_THREADS": "7"}
    quota(2)
    threads.limit(["x"], environment)
    assert environment == {"OMP_NUM_THREADS": "7"}
    threads.limit(["x", "--threads", "3"], environment)
    assert environment["OMP_NUM_THREADS"] == "3"


def test_a_quota_below_the_number_of_cpus_limits_the_threads(quota):
    for n, expected in ((2, "2"), (8, None), (9, None)):
        environment = {}
        quota(n)
        threads.limit(["x"], environment)
        assert environment.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("200000 100000\n", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("max 100000", None),
        ("", None),
        ("5 0", None),
    ],
)
def test_the_quota_of_a_control_group_is_read_in_both_versions(tmp_path, text, n):
    (tmp_path / "cpu.max").write_text(text)
    absent = str(tmp_path / "absent")
    assert threads.quota(str(tmp_path / "cpu.max"), (absent, absent)) == n
    words = [*text.split(), "", ""]
    (tmp_path / "quota").write_text(words[0].replace("max", "-1"))
    (tmp_path / "period").write_text(words[1])
    assert threads.quota(absent, (str(tmp_path / "quota"), str(tmp_path / "period"))) == n


def test_blas_has_the_number_of_threads_of_the_flag():
    requires("threadpoolctl")
    code = (
        "import sys; sys.argv = ['x', '--threads', '1']\n"
        "import cli.start, numpy, threadpoolctl\n"
        "print({info['num_threads'] for info in threadpoolctl.threadpool_info()})"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("{1}\n", "")


def test_an_invalid_number_is_a_usage_error(here):
    for value in ("0", "many", "-1"):
        code, out, err = here("x", "--threads", value, "--model_size", "tiny")
        assert (code, out) == (2, "") and err.startswith("Error: threads is ")
