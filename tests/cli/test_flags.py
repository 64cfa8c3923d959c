"""cli/flags.py: from the words of a command line to frozen options, and the tables of the flags."""

import copy
import dataclasses
import inspect
import itertools
import sys
import time

import pytest

import gpt2
import sampling
from cli import command, command_flags, complete, flags, hints
from cli.checks import biases, evaluate
from cli.options import check_each, check_options

TABLES = [flags.FLAGS, command_flags.PICO_FLAGS, command_flags.BATCH_FLAGS, command_flags.EXPLORE_FLAGS]
ALL_FLAGS = [(name, flag) for table in TABLES for name, flag in table.items()]

# ---- from words to the arguments of main -----------------------------------------------------------------------


@pytest.fixture
def received(monkeypatch):
    """Return what `main` receives when these words follow the command's name."""

    def receive(*words):
        calls = []

        def main(prompt=None, temperature=None, seed=None, models_dir="models", **others):
            calls.append((prompt, temperature, seed, models_dir, others))

        monkeypatch.setattr(sys, "argv", ["gpt2.py", *words])
        command.run(main)
        return calls[0]

    return receive


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello, world",
        "1984",
        "1e5",
        "None",
        "True",
        "a # b",
        "{x}",
        "(1, 2)",
        "'quoted'",
        '"quoted"',
        "",
        " x ",
        "你好",
        "🤗",
        "$HOME `ls` \\n \\",
        "a=b",
        "[1",
        "line\nline\n",
        "- milk",
        "-5 degrees",
        "--a list item",
        "-- said nobody",
        "…" * 30_000,
    ],
)
def test_main_receives_the_prompt_as_it_was_typed(received, prompt):
    assert received(prompt)[0] == prompt
    assert received(f"--prompt={prompt}")[0] == prompt
    assert received("--", prompt)[0] == prompt
    assert received("--seed", "1", prompt)[0] == prompt
    assert received("--json=True", prompt)[0] == prompt


def test_a_prompt_given_by_name_may_look_like_a_flag(received):
    assert received("--prompt=--item")[0] == "--item"
    assert received("--prompt=--help")[0] == "--help"


def test_a_switch_does_not_consume_the_prompt_after_it(received):
    assert received("--json", "1984")[0] == "1984"
    assert received("--quiet", "--json", "false alarm")[0] == "false alarm"
    assert received("--stream", "false", "x")[0] == "x"


def test_main_receives_numbers_as_numbers_and_folder_names_as_text(received):
    assert received("x", "--temperature", "0.8", "--seed=7", "--models_dir", "2024")[1:4] == (0.8, 7, "2024")


def test_the_name_of_a_flag_may_have_dashes_for_underscores(received):
    assert received("x", "--models-dir", "here")[3] == "here"


# ---- checks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "stops"),
    [
        ("\\n", ("\n",)),
        ("a\\tb\\\\n", ("a\tb\\n",)),
        ("[END]", ("[END]",)),
        ('["a", "\\n"]', ("a", "\n")),
        ("['a', \"b\"]", ("a", "b")),
        ("[' don\\'t']", (" don't",)),
        ("[1]", ("[1]",)),
        ("[", ("[",)),
        ("\\d", ("\\d",)),
        ("1984", ("1984",)),
        (["a", "b"], ("a", "b")),
    ],
)
def test_a_stop_text_has_escapes_and_a_list_may_have_the_form_of_json_or_python(typed, stops):
    assert check_options({"stop": typed}).stop == stops


# ---- frozen options --------------------------------------------------------------------------------------------


def test_options_cannot_be_changed_after_the_check():
    options = check_options({"seed": 7})
    for name in ("seed", "values", "given", "index"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, 8)
    with pytest.raises(TypeError):
        options.values["seed"] = 8
    for arguments in (options.sampling, options.penalties):
        arguments["seed"] = 8
    assert options.seed == 7
    assert "seed" not in options.sampling and "seed" not in options.penalties


def test_options_do_not_change_with_the_arguments_they_were_made_from():
    asked = {"seed": 7}
    options = check_options(asked)
    asked["seed"] = 8
    assert options.seed == 7


def test_an_unknown_option_is_an_attribute_error():
    options = check_options({})
    with pytest.raises(AttributeError, match="there is no option temprature"):
        _ = options.temprature
    assert not hasattr(copy.copy(options), "temprature")


def test_options_have_the_value_of_each_flag_and_the_names_of_those_given():
    options = check_options({"seed": 7, "temperature": 0.5, "top_k": None})
    assert dict(options.values) == {name: flag.default for name, flag in flags.FLAGS.items()} | {
        "seed": 7,
        "temperature": 0.5,
    }
    assert options.given == ("seed", "temperature")
    assert options.sampling == {"temperature": 0.5}


def test_the_context_slides_only_if_the_options_say_so():
    assert check_options({}).window_keep is None
    assert check_options({"context": "slide"}).window_keep == 0
    assert check_options({"context": "slide", "keep": 3}).window_keep == 3
    assert check_options({}, flags.without(flags.FLAGS, "context", "keep")).window_keep is None


# ---- the tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_aliases_are_unique_and_differ_from_the_names_of_flags(table):
    names = [*table, "prompt"]
    aliases = [*flags.POSITIONAL_ALIASES, *itertools.chain(*(flag.aliases for flag in table.values()))]
    assert len(set(aliases + names)) == len(aliases + names)


def test_a_flag_of_another_program_is_neither_a_flag_nor_an_alias():
    known = {name for name, _ in ALL_FLAGS} | {*itertools.chain(*(flags.aliases_of(table) for table in TABLES))}
    assert known & set(hints.UNSUPPORTED_FLAGS) == set()


@pytest.mark.parametrize("table", TABLES)
def test_every_default_passes_the_check_of_its_flag_or_stands_for_not_given(table):
    for name, flag in table.items():
        assert flag.default is None or flag.default == () or flag.check(name, flag.default) == flag.default


def test_main_without_options_uses_the_defaults_of_the_flags(monkeypatch):
    calls = []
    monkeypatch.setattr(complete, "complete", lambda *args: calls.append(args))
    gpt2.main("x")
    ((prompt, options, new_sampler),) = calls
    assert (prompt, options.given) == ("x", ())
    assert dict(options.values) == {name: flag.default for name, flag in flags.FLAGS.items()}
    assert new_sampler() is sampling.greedy


def test_strategy_temperature_and_top_p_of_main_reach_the_sampler(monkeypatch):
    calls = []
    monkeypatch.setattr(complete, "complete", lambda *args: calls.append(args))
    gpt2.main("x", strategy="temperature_top_p", temperature=0.7, top_p=0.6)
    ((_, options, new_sampler),) = calls
    assert options.given == ("strategy", "temperature", "top_p")
    assert new_sampler().keywords == {"temperature": 0.7, "top_p": 0.6}


@pytest.mark.parametrize(
    "function",
    [
        sampling.softmax_with_temperature,
        sampling.entmax,
        sampling.temperature_sampling,
        sampling.top_k_sampling,
        sampling.top_p_sampling,
        sampling.sample_from_logits,
    ],
)
def test_a_function_of_the_articles_has_the_defaults_of_the_knobs(function):
    names = {"alpha": "entmax_alpha"}
    parameters = {names.get(p.name, p.name): p.default for p in inspect.signature(function).parameters.values()}
    knobs = parameters.keys() & sampling.KNOBS.keys()
    assert knobs
    assert {name: parameters[name] for name in knobs} == {name: sampling.KNOBS[name][-1] for name in knobs}


def test_options_hold_plain_numbers():
    values = {"temperature": evaluate("temperature", "8e-1"), "top_p": evaluate("top_p", "1e-1")}
    options = check_options(values)
    assert repr(values["temperature"]) == "8e-1"
    assert [type(options.values[name]) for name in values] == [float, float]
    lists = check_each({"temperature": evaluate("temperature", "1e0,5e-1")}, command_flags.EXPLORE_FLAGS)
    assert [type(value) for value in lists.temperature] == [float, float]


# ---- values of any size ----------------------------------------------------------------------------------------

DEEP = "[" * 3000


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("7", 7),
        ("-3", -3),
        ("+3", 3),
        (" 7 ", 7),
        (".5", 0.5),
        ("1e-5", 1e-5),
        ("0.3,0.7", (0.3, 0.7)),
        ("[198,628]", (198, 628)),
        ("(1, 2,)", (1, 2)),
        ("5,", (5,)),
        ("[]", ()),
        ("True", True),
        ("None", None),
        ("hot", "hot"),
        ("0x10", "0x10"),
        ("1is", "1is"),
        ("nan", "nan"),
        ("٣", "٣"),
        ("", ""),
        ("[[1]]", ("[1]",)),
        (DEEP, DEEP),
    ],
)
def test_a_text_stands_for_numbers_or_for_itself(typed, value):
    found = evaluate("name", typed)
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize("typed", ["1" * 41, "1" * 5000, "0." + "1" * 400, "[1," + "9" * 400 + "]"])
def test_a_number_of_more_than_40_digits_is_an_error_that_states_the_limit(typed):
    with pytest.raises(ValueError, match=r"^name is '\S+, a number of \d+ digits; at most 40 are read$"):
        evaluate("name", typed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 2**63, "seed is 9223372036854775808; it must be a whole number from 0 to 9223372036854775807"),
        ("num_samples", 10**9, "num_samples is 1000000000; it must be a whole number from 1 to 10000"),
        ("banned_ids", [10**20], "100000000000000000000 is not a token id"),
        ("temperature", 10**400, "it must be a number from 0 (greedy) upwards"),
        ("temperature", "\x1b[31m" + "a" * 10**6, "it must be a number from 0 (greedy) upwards"),
        ("top_k", 10**400, "it must be a whole number"),
        ("stop", '["' + DEEP, "which begins as a list but is none"),
        ("stop", '["a", ' + DEEP, "which begins as a list but is none"),
        ("stop", "a" * 10**6, "stop has 1000000 characters; at most 10000 are compared with the text"),
        ("stop", ["ab"] * 5001, "stop has 10002 characters; at most 10000"),
        ("stop", [1] * 10**6, "it must be a text or a list of texts"),
        ("stop", [["a"], 3], "it must be a text or a list of texts"),
        ("logit_bias", DEEP, "it must map token ids or texts to numbers"),
        (
            "logit_bias",
            {"99999999999": 1},
            "logit_bias has the key '99999999999'; a key is a token id, 0 to 2147483647, or",
        ),
        ("logit_bias", {"9999999999": 1}, "9999999999 is not a token id"),
        ("logit_bias", {"05": 1}, "logit_bias has the key '05'"),
        ("logit_bias", {"5": 10**300}, "it must be a number from -100 to 100"),
        ("context", "a" * 10**6, "it must be stop or slide"),
        ("json", "\n" * 10**6, "it must be True or False"),
        ("json", [True], "json is [True]; it must be True or False"),
        ("model_size", "\ud800", "model_size is '\\ud800'; no file or folder can have this name"),
        ("models_dir", "a\0b", "models_dir is 'a\\x00b'; no file or folder can have this name"),
        ("strategy", "\x1b" + "b" * 10**6, "Unknown sampling strategy"),
        ("preset", "b" * 10**6, "Unknown preset"),
        ("n" * 10**6, 1, "there is no flag --nnn"),
    ],
)
def test_a_value_of_any_size_is_an_error_in_one_short_line(name, value, message):
    with pytest.raises(ValueError) as error:
        check_options({name: value})
    assert message in str(error.value)
    assert len(str(error.value)) < 500 and str(error.value).isprintable()


def test_keys_that_would_collide_as_integers_are_rejected_in_linear_time():
    modulus = sys.hash_info.modulus
    colliding = {str(i * modulus): 0 for i in range(1, 30_000)}  # inserted as integers, they take seconds
    start = time.perf_counter()
    with pytest.raises(ValueError, match="has the key"):
        biases("logit_bias", colliding)
    assert time.perf_counter() - start < 1
