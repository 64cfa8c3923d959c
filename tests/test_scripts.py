"""Scripts that are run by hand, and replace functions of the project, still fit it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def output_of(*words):
    words = [sys.executable, *words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_random_command_lines_end_without_a_fault():
    assert "200 lines, 0 faults" in output_of("tests/fuzz_commands.py", "--lines", "200")


def test_gpt2_pico_py_in_float64_writes_the_text_of_gpt2_pico_py():
    words = ("Once upon a time", "--models_dir", "models", "--model_size", "tiny", "-n", "8")
    assert output_of("benchmarks/with_float64.py", *words) == output_of("gpt2_pico.py", *words)
