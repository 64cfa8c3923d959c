"""exercises.md: its commands run, and its answers are correct."""

import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import explore
import sampling
import utils
from views import score, toy
from views.command import EXPLORE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "exercises.md").read_text(encoding="utf-8")
EXERCISES = {int(number): body for number, body in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", TEXT, re.S | re.M)}
LOGITS = np.array(list(toy.TOY.values()))


def parts(number):
    """The question, the commands and the answer of an exercise."""
    question, answer = EXERCISES[number].split("<details><summary>Answer</summary>")
    (commands,) = re.findall(r"```sh\n(.*?)```", question, re.S)
    return question, commands, answer


def python_in(text):
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project that an exercise may change."""
    copy = tmp_path_factory.mktemp("exercises")
    for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, copy)
    for name in ("tests", "cli", "checkpoints", "engine", "views"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "models").symlink_to(ROOT / "models")
    return copy


@pytest.fixture
def shell(folder):
    """(exit code, stdout, stderr) of commands of the shell, in which python is this one."""

    def run(commands):
        python = f'python() {{ "{sys.executable}" -W error "$@" < /dev/null; }}\n'
        done = subprocess.run(["sh", "-c", python + commands], cwd=folder, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return run


def test_all_twelve_exercises_have_a_file_to_read_a_command_a_hint_and_an_answer():
    assert sorted(EXERCISES) == list(range(1, 13))
    for number in EXERCISES:
        question, commands, answer = parts(number)
        assert "*Read: " in question and "\nHint: " in question and commands and answer.strip().endswith("</details>")
        assert [name for name in re.findall(r"`((?:views/)?\w+\.py)`", question) if not is_there(name)] == []


def is_there(name):
    return (ROOT / name).exists() or name.startswith("my_") or name == "no_e.py"


def test_every_function_to_read_exists():
    named = re.findall(r"^\*Read: (.*?)\*", TEXT, re.M)
    sources = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("gpt2.py", "sampling.py"))
    names = [name for line in named for name in re.findall(r"`(\w+)`", line)]
    assert len(names) >= 8
    assert [name for name in names if not re.search(rf"^(def|class) {name}\b", sources, re.M)] == []


def test_the_five_options_of_the_answer_are_greedy(shell, here):
    _, commands, answer = parts(1)
    assert shell(commands) == (0, "drawn\n", "")
    ways = re.findall(r"`(--\w+ \d)`", answer.split("Not ")[0])
    assert len(ways) == 5
    story = ("One day", "--model_size", "tiny", "--seed", "1", "-n", "10")
    for way in ways:
        assert here(*story, *way.split()) == here(*story)
        if "temperature" not in way:
            assert here(*story, "--temperature", "1.5", *way.split()) == here(*story)
    assert here(*story, "--typical_p", "0") != here(*story)


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_the_commands_of_exercises_2_to_5_run(here, number):
    for line in parts(number)[1].splitlines():
        python, script, *args = shlex.split(line)
        assert (python, script) == ("python", "explore.py")
        code, out, err = here(*args, main=explore.main, command=EXPLORE)
        assert (code, err) == (0, "") and len(out) > 300


def test_the_probabilities_of_pizza_are_those_of_the_answer():
    def pizza(temperature):
        return sampling.softmax_with_temperature(LOGITS, temperature)[6]

    _, _, answer = parts(2)
    likely, warm = map(float, re.search(r"([\d.]+) at temperature 5, .* from temperature ([\d.]+) on", answer).groups())
    assert pizza(5) == pytest.approx(likely, abs=5e-5)
    assert pizza(warm - 1e-4) < 0.01 < pizza(warm + 1e-4)
    assert pizza(1) == pytest.approx(1e-4, abs=2e-6) and pizza(1e9) <= 1 / 9 + 1e-9


def test_the_largest_nucleus_of_two_words_is_that_of_the_answer():
    _, _, answer = parts(3)
    largest = float(re.match(r"\s*([\d.]+):", answer)[1])
    assert sampling.keep_top_p(LOGITS, largest).tolist() == [3, 7]
    assert sampling.keep_top_p(LOGITS, largest + 1e-4).tolist() == [0, 3, 7]
    assert "closer" in answer and next(iter(toy.TOY)) == "closer"


def test_the_draws_lie_in_the_intervals_of_the_answer():
    question, _, answer = parts(4)
    u = np.random.default_rng([5, 0, 0]).random()
    assert f"u = {u:.4f}" in question
    for temperature in (1, 5):
        sums = np.cumsum(sampling.softmax_with_temperature(LOGITS, temperature))
        assert list(toy.TOY)[np.searchsorted(sums, u)] == "toward"
        assert f"{sums[6]:.4f} to {sums[7]:.4f}" in answer
    assert f"{sums[5]:.4f} to {sums[6]:.4f}" in question
    first = next(seed for seed in range(999) if sums[5] <= np.random.default_rng([seed, 0, 0]).random() < sums[6])
    assert f"Seed {first} is the first" in answer


def test_the_perplexities_are_those_of_the_answer():
    _, commands, answer = parts(5)
    assert f"{math.exp((0.558406 + 1.028406) / 2):.4f}" in answer
    model = utils.load("tiny", ROOT / "models")
    dog, cake = (model.encoder.encode(text) for text in re.findall(r'score "(The .*?)"', commands))
    assert sorted(dog) == sorted(cake)
    assert sum(p for p, _ in score.score(dog, model)) > sum(p for p, _ in score.score(cake, model))


def test_the_sampler_fails_its_examples_until_the_answer_is_inserted(shell, folder):
    question, commands, answer = parts(6)
    skeleton = python_in(question)
    (folder / "my_sampler.py").write_text(skeleton, encoding="utf-8")
    assert shell(commands)[0] == 1
    (folder / "my_sampler.py").write_text(with_answer(skeleton, python_in(answer)), encoding="utf-8")
    code, out, err = shell(commands)
    assert (code, err) == (0, "") and out.startswith("One day, ") and len(out) > 100


def test_the_story_has_an_e_until_the_answer_is_inserted(shell, folder):
    question, commands, answer = parts(7)
    skeleton = python_in(question)
    (folder / "no_e.py").write_text(skeleton, encoding="utf-8")
    code, out, err = shell(commands)
    assert (code, err) == (1, "") and "e" in out
    (folder / "no_e.py").write_text(with_answer(skeleton, python_in(answer)), encoding="utf-8")
    assert shell(commands) == (0, "", "")
    assert len((folder / "no_e.txt").read_text(encoding="utf-8").split()) > 20


def with_answer(skeleton, line):
    return re.sub(r"^.*# yours\n", line.replace("\\", r"\\"), skeleton, flags=re.M)


def test_a_broken_cache_fails_the_tests_that_the_answer_names(shell, folder):
    question, commands, answer = parts(8)
    source = (ROOT / "gpt2.py").read_text(encoding="utf-8")
    (line,) = [line for line in source.splitlines() if line.strip().startswith("positions =")]
    assert "n_past + " in line and "take `n_past + ` out of the line" in question
    (folder / "gpt2.py").write_text(source.replace(line, line.replace("n_past + ", "")), encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", answer)
    try:  # only the named tests, to save time
        code, out, _ = shell(f"{commands.strip()} -p no:cacheprovider -k '{' or '.join(named)}'")
    finally:
        shutil.copy(ROOT / "gpt2.py", folder)
    failed = set(re.findall(r"^FAILED tests/test_gpt2\.py::(\w+)", out, re.M))
    assert code == 1 and len(named) == 5
    assert set(named) - failed == {"test_logits_equal_those_of_transformers"}


@pytest.mark.parametrize(("number", "name"), [(9, "my_mask.py"), (12, "my_acceptance.py")])
def test_the_examples_of_an_exercise_fail_until_the_answer_is_inserted(shell, folder, number, name):
    question, commands, answer = parts(number)
    skeleton = python_in(question)
    assert f"`{name}`" in question
    (folder / name).write_text(skeleton, encoding="utf-8")
    assert shell(commands)[0] == 1
    first, _, others = python_in(answer).partition("\n")
    (folder / name).write_text(with_answers(skeleton, f"{first}\n", others), encoding="utf-8")
    assert shell(commands) == (0, "", "")


def with_answers(skeleton, *answers):
    """Return the skeleton with an answer in place of each line that is marked."""
    for answer in answers:
        skeleton = re.sub(r"^.*# yours\n", answer.replace("\\", r"\\"), skeleton, count=1, flags=re.M)
    return skeleton


def test_the_tokens_of_bananas_are_those_of_the_answer(shell):
    _, commands, answer = parts(10)
    assert shell(commands) == (0, "wrong\n", "")
    tokens = re.match(r"\s*`(.*?)`", answer)[1]
    assert shell(commands.replace("b a n a n a s", tokens)) == (0, "correct\n", "")


def test_the_perplexity_of_a_text_is_wrong_until_the_answer_is_inserted(shell, folder):
    question, commands, answer = parts(11)
    skeleton = python_in(question)
    examples, own_text = commands.strip().splitlines()
    (folder / "my_perplexity.py").write_text(skeleton, encoding="utf-8")
    assert shell(examples)[0] == 1
    assert "False" in shell(own_text)[1]
    (folder / "my_perplexity.py").write_text(with_answer(skeleton, python_in(answer)), encoding="utf-8")
    assert shell(examples) == (0, "", "")
    assert shell(own_text)[:2] == (0, "True\n")
