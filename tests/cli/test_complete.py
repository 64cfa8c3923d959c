"""cli/complete.py with the bundled model: seeds, samples, stop strings, penalties, and the text on stdout."""

import json

import pytest
from run_script import STORY, records_of, stdout_of, text_of

import gpt2_pico
from cli import help, output

# ---- the text and its seed -------------------------------------------------------------------------------------


def test_stdout_is_the_new_text_and_one_newline():
    text = stdout_of(STORY, "--model_size", "tiny", "--n_tokens_to_generate", "20")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert len(text.split()) > 5
    assert not text.startswith(STORY)


def test_gpt2_py_and_gpt2_pico_py_print_the_same_text(here):
    args = (STORY, "-n", "30", "--temperature", "0.8", "--seed", "3", "--stop", "zzz")
    assert text_of(here, *args) == text_of(here, *args, main=gpt2_pico.main, command=help.PICO)


def test_the_same_seed_gives_the_same_text_and_another_seed_gives_another_text(here):
    def text(*args):
        return text_of(here, STORY, "-n", "25", *args)

    assert text("--temperature", "1", "--seed", "1") == text("--temperature", "1", "--seed", "1")
    assert text("--temperature", "1", "--seed", "1") != text("--temperature", "1", "--seed", "2")
    assert text() == text("--strategy", "greedy") == text("--temperature", "0")


def test_temperature_alone_is_enough_to_sample():
    args = (STORY, "--model_size=tiny", "--temperature=1.5", "--n_tokens_to_generate=20")
    assert len({stdout_of(*args) for _ in range(3)}) > 1


def test_an_empty_prompt_starts_a_text():
    assert len(stdout_of("", "--model_size", "tiny", "--n_tokens_to_generate", "20").split()) > 5


@pytest.mark.parametrize(
    "args",
    [  # the commands in the articles
        ("--temperature", "0.8"),
        ("--strategy", "top_p", "--top_p", "0.9"),
        ("--strategy", "temperature_top_p", "--temperature", "0.7", "--top_p", "0.95"),
        ("--num_samples=1", "--max_new_tokens=40"),
        ("--num_samples=1", "--max_new_tokens=40", "--temperature=0.8", "--top_k=50"),
        ("--num_samples=1", "--max_new_tokens=40", "--temperature=0.7", "--top_k=20"),
        ("--temperature", "0.3", "--top_k", "10"),
        ("--temperature", "1.0", "--top_p", "0.95"),
    ],
)
def test_a_command_of_the_articles_samples_if_it_has_a_sampling_option(here, args):
    texts = {text_of(here, f"--start={STORY}", *args, "--seed", str(seed)) for seed in range(4)}
    is_greedy = not any("temperature" in arg or "top" in arg for arg in args)
    assert (texts == {text_of(here, STORY)}) if is_greedy else len(texts) > 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--max_new_tokens", "5"], ["--n_tokens_to_generate", "5"]),
        (["-n", "5"], ["--n_tokens_to_generate", "5"]),
        (["--max-tokens=5"], ["--n_tokens_to_generate", "5"]),
        (["--top-p", "0.5", "--seed", "1"], ["--top_p", "0.5", "--seed", "1"]),
        (["--temp", "0.7", "--seed", "1"], ["--temperature", "0.7", "--seed", "1"]),
        (["--repeat_penalty", "1.5"], ["--repetition_penalty", "1.5"]),
        (["--num_return_sequences", "2"], ["--num_samples", "2"]),
        (["--nostream"], ["--stream", "False"]),
        (["--no-stream"], []),
    ],
)
def test_a_name_of_another_program_is_the_same_flag(here, theirs, ours):
    assert text_of(here, STORY, *theirs) == text_of(here, f"--start={STORY}", *ours)


# ---- the end of a text, and the number of texts ----------------------------------------------------------------


def test_a_stop_string_ends_the_text_and_is_not_printed(here):
    whole = text_of(here, STORY, "-n", "60")
    stop = whole[20:33]  # begins and ends within tokens
    assert text_of(here, STORY, "-n", "60", "--stop", stop) == whole[: whole.index(stop)] + "\n"
    assert text_of(here, STORY, "-n", "60", "--stop", json.dumps(["never", stop])) == whole[: whole.index(stop)] + "\n"
    (record,) = records_of(here, STORY, "-n", "60", "--stop", stop)
    assert (record["text"], record["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_the_finish_reason_is_length_context_or_eos(here):
    assert records_of(here, STORY, "-n", "5")[0]["finish_reason"] == "length"
    (nothing,) = records_of(here, STORY, "-n", "0")
    assert (nothing["text"], nothing["finish_reason"], nothing["usage"]["completion_tokens"]) == ("", "length", 0)
    code, out, err = here(STORY, "--model_size", "tiny", "--json", "-n", "600", "--ignore_eos")
    assert (code, json.loads(out)["finish_reason"]) == (0, "context")
    assert err == "Warning: the text ends where the model's context is full; --context slide goes on beyond it\n"
    args = ("-n", "400", "--num_samples", "4", "--temp", "0.8", "--seed", "1")
    assert "eos" in {record["finish_reason"] for record in records_of(here, STORY, *args)}


def test_min_new_tokens_prevents_an_early_end(here):
    args = (STORY, "--num_samples", "4", "--temperature", "0.8", "--seed", "1")
    lengths = [record["usage"]["completion_tokens"] for record in records_of(here, *args, "-n", "400")]
    shortest = min(lengths)
    assert shortest < 400
    longer = records_of(here, *args, "-n", str(shortest + 9), "--min_new_tokens", str(shortest + 1))
    assert longer[lengths.index(shortest)]["usage"]["completion_tokens"] > shortest
    assert "endoftext" not in json.dumps(longer)


def test_a_text_may_be_longer_than_the_context_if_the_context_slides(here):
    (record,) = records_of(here, STORY, "-n", "700", "--ignore_eos", "--context", "slide", "--keep", "4")
    assert (record["finish_reason"], record["usage"]["completion_tokens"]) == ("length", 700)


def test_a_sample_does_not_depend_on_the_number_of_samples(here):
    args = (STORY, "-n", "30", "--temperature", "1", "--seed", "3")
    three = text_of(here, *args, "--num_samples", "3").split(f"\n{output.SEPARATOR}\n")
    assert len(three) == 3 and len(set(three)) == 3
    assert three[0] + "\n" == text_of(here, *args)
    records = records_of(here, *args, "--num_samples", "5")
    assert [record["text"] for record in records[:3]] == [*three[:2], three[2].removesuffix("\n")]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]


def test_every_sample_has_a_mirostat_state_of_its_own(here):
    args = (STORY, "-n", "30", "--strategy", "mirostat", "--seed", "3")
    assert text_of(here, *args, "--num_samples", "2").startswith(text_of(here, *args))


def test_penalties_bans_and_biases_change_the_text(here):
    def ids_of(*args):
        return [entry["id"] for entry in records_of(here, STORY, "--logprobs", "0", *args)[0]["logprobs"]]

    ids = ids_of("-n", "40")
    assert len(set(ids)) < 40
    assert len(set(ids_of("-n", "40", "--no_repeat_ngram_size", "1"))) == 40
    for ban in (["--banned_ids", f"[{ids[0]}]"], ["--logit_bias", f'{{"{ids[0]}": -100}}']):
        assert ids[0] not in ids_of(*ban)
    names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    assert text_of(here, STORY) not in {text_of(here, STORY, f"--{name}", "2") for name in names}


# ---- printing --------------------------------------------------------------------------------------------------


def test_echo_prints_the_prompt_before_each_text(here):
    assert text_of(here, STORY, "--echo") == STORY + text_of(here, STORY)
    assert records_of(here, STORY, "--echo")[0]["text"] + "\n" == STORY + text_of(here, STORY)
    assert text_of(here, STORY, "--echo", "--num_samples", "2", "-n", "3").count(STORY) == 2


def test_text_is_printed_while_it_is_generated_unless_stream_is_false(monkeypatch, here):
    written = []
    write = output.write
    monkeypatch.setattr(output, "write", lambda text: (written.append(text), write(text)))
    streamed = text_of(here, STORY, "-n", "20")
    assert len(written) > 15
    assert text_of(here, STORY, "-n", "20", "--stream", "False") == streamed


def test_a_prompt_that_no_encoding_makes_short_enough_is_refused_without_encoding(here, monkeypatch):
    monkeypatch.setattr("encoder.Encoder.encode", lambda self, text: pytest.fail("encoded"))
    code, out, err = here("x" * 100_000, "--model_size", "tiny")
    assert (code, out) == (2, "")
    assert "the prompt has 100000 characters; this model reads at most 512 tokens" in err
