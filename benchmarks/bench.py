"""The speed of gpt2.py beside that of other programs and the walls of the machine, all measured in one run.

    make bench                       everything, in an environment of its own: about half an hour
    make bench ARGS=--quick          fewer rounds and steps, under 3 minutes once all is installed and converted
    make bench ARGS=--large          the 774M and 1558M shapes as well: 15 GB of disk, 8 GB of free memory

Every program has the same random weights in the shape of GPT-2 124M. Each is a process of its own, and they take turns
in rounds: what is compared was measured within moments. So the ratios are the result, each the median of those of the
rounds; times are context. First all must compute the same logits. What is not installed is skipped, and that is said.

It prints a table, and writes to benchmarks/results: bench.json (all that was measured), README.md and two plots.
A quick run writes into the folder `quick` within.
"""

import sys
from pathlib import Path

import lab
import numpy as np
import report
from fire import Fire
from peers import PEERS
from worker import WorkerError

ROOT = Path(__file__).parent.parent
OURS, MACHINE = "gpt2.py", "the machine"
SLOW = ("gpt2_pico.py", "gpt2_pico.py in float64")
PROMPT = "The quick brown fox jumps over the lazy dog."  # ten tokens
BATCH_SIZES = (2, 3, 4, 8, 16, 32, 64)
# How far float32 logits may be from ours. llama.cpp looks gelu up in a table of float16 values, whatever its weights.
TOLERANCE = 1e-3
TOLERANCES = {"llama.cpp F32": 5e-3}

FULL = {"rounds": 7, "steps": 20, "contexts": (10, 100, 250, 500, 750, 1000), "prompts": (50, 100, 200, 400, 800)}
FULL |= {"batch_sizes": BATCH_SIZES, "sizes": ("355M",), "memory_steps": 200}
QUICK = {"rounds": 2, "steps": 5, "contexts": (10, 1000), "prompts": (50, 400)}
QUICK |= {"batch_sizes": (2, 3, 4, 16, 64), "sizes": (), "memory_steps": 20}


def check_agreement(place, peers):
    """Largest differences of logits from ours; leave if one that computes in float32 is further than it may."""
    question = {"n_prompt": 40, "n_steps": 8}  # a prompt, then ids one at a time
    ours = np.array(place.ask(OURS, "logits", **question))
    agreement = {}
    for name in peers:
        difference = float(np.abs(np.array(place.ask(name, "logits", **question)) - ours).max())
        agreement[name] = difference
        limit = TOLERANCES.get(name, TOLERANCE) if place.workers[name].about["is_float32"] else None
        lab.say(f"logits of {name} differ from ours by at most {difference:.1e}")
        if limit is not None and not difference <= limit:
            sys.exit(
                f"Error: {name} does not compute the same: its logits may differ by {limit:.0e}; nothing is measured"
            )
    return agreement | {"of logits from": float(ours.min()), "to": float(ours.max())}


def gemm_peak(place, steps):
    return lambda: place.ask(MACHINE, "gemm_peak", repeats=max(1, steps // 7))


def single_sequence(place, peers, long_peers, steps):
    """Series of decode and prefill, for every program, and the wall of each.

    The order matters: a prompt of 900 tokens stays, and is what decoding at 1000 tokens goes on with.
    """

    def asked(call, names, **arguments):
        return {name: lambda name=name: place.ask(name, call, **arguments) for name in names}

    wall = asked("products", [MACHINE], n_rows=1, repeats=steps)
    peak = {MACHINE: gemm_peak(place, steps)}
    return {
        report.DECODE: wall | asked("decode", peers, n_context=100, n_steps=steps),
        report.PREFILL: peak | asked("prefill", long_peers, n_prompt=900),
        report.LONG: wall | asked("decode", long_peers, n_context=1000, n_steps=steps),
    }


def ours_alone(place, steps, batch_sizes, contexts, prompts):
    """Series of what only gpt2.py is asked: batches, what is not a matrix product, samplers, how cost grows."""

    def ask(call, **arguments):
        return lambda: place.ask(OURS, call, **arguments)

    def wall(n_rows):
        return lambda: place.ask(MACHINE, "products", n_rows=n_rows, repeats=max(2, steps // 4))

    batch = {"GEMM peak": gemm_peak(place, steps)}
    for n in (1, *batch_sizes):
        batch[f"bare products of {n}"] = wall(n)
        batch[f"step of {n}"] = ask("decode_batch", n_sequences=n, n_context=100, n_steps=steps)
    return {
        "batches": batch,
        "overhead": {"steps and products": ask("overhead", n_context=100, n_steps=steps)},
        "samplers": {"calls": ask("samplers", calls=10)},
        "context": {str(n): ask("decode", n_context=n, n_steps=steps) for n in contexts},
        "prompt": {str(n): ask("prefill", n_prompt=n) for n in prompts},
    }


def other_sizes(place, sizes, steps):
    """Series of decoding with models of other sizes, each with its own wall."""
    series = {}
    for size in sizes:
        place.start(OURS, size)
        place.start(MACHINE, size)
        names = [f"{OURS}, {size}", f"{MACHINE}, {size}"]
        if all(name in place.workers for name in names):
            ours, wall = names
            series[f"decode of {size}"] = {
                MACHINE: lambda wall=wall: place.ask(wall, "products", n_rows=1, repeats=steps),
                OURS: lambda ours=ours: place.ask(ours, "decode", n_context=100, n_steps=steps),
            }
    return series


def whole_processes(place, peers):
    """Series of commands as a person would give them, timed from their start: one new token, and forty."""
    flags = ["--models_dir", place.models_dir, "--model_size", "random-124M", "--n_tokens_to_generate"]
    files = place.work_dir / "random-124M"
    commands = {name: [ROOT / name, PROMPT, *flags] for name in (OURS, "gpt2_pico.py")}
    commands["gpt2_pico.py in float64"] = [lab.HERE / "with_float64.py", PROMPT, *flags]
    commands["transformers"] = [lab.HERE / "with_transformers.py", files / "huggingface", PROMPT]
    commands["llama.cpp F32"] = [lab.HERE / "with_llama_cpp.py", files / "gguf-F32", PROMPT]

    def run(name, n_tokens, which):
        return lambda: lab.run_command([sys.executable, *commands[name], n_tokens], place.threads)[which]

    names = [name for name in commands if name in peers]
    return {
        report.FIRST: {name: run(name, 1, 0) for name in names},
        report.WHOLE: {name: run(name, 40, 1) for name in names},
    }


def memory(place, peers, steps):
    """Bytes: anonymous memory of each program loaded, before it was asked for anything, and at most while decoding."""
    loaded = {name: place.workers[name].about["memory"] for name in peers}
    return {name: {"loaded": loaded[name]} | place.ask(name, "memory", n_steps=steps) for name in peers}


def measure(place, peers, settings, rounds, quick):
    """Start everything, see that it agrees, then measure; return all there is to know."""
    for name in (MACHINE, OURS, *(name for name in peers if name not in (MACHINE, OURS))):
        place.start(name)
    if not {MACHINE, OURS} <= set(place.workers):
        sys.exit("Error: without our own there is nothing to compare with")
    peers = [name for name in place.workers if name != MACHINE]
    agreement = check_agreement(place, peers)
    memories = memory(place, peers, settings["memory_steps"])

    # What has no cache takes half a minute a round where the text is long.
    timed_long = [name for name in peers if not (quick and name in SLOW)]
    steps = settings["steps"]
    series = single_sequence(place, peers, timed_long, steps)
    series |= ours_alone(place, steps, *(settings[name] for name in ("batch_sizes", "contexts", "prompts")))
    series |= other_sizes(place, settings["sizes"], steps)
    series |= whole_processes(place, peers)
    records = lab.in_turns(series, rounds)
    for size in settings["sizes"]:
        if (name := f"{OURS}, {size}") in place.workers:
            memories[name] = {"loaded": place.workers[name].about["memory"]} | place.ask(name, "memory", n_steps=40)
    return lab.notes(place, records) | {"agreement": agreement, "memory": memories, "records": records}


def names_of(peers, quick):
    """The peers that were asked for: those whose names are given, separated by commas, or all that are quick enough."""
    everyone = [name for name in PEERS if not (quick and name == SLOW[1])]
    names = peers.split(",") if isinstance(peers, str) else peers or everyone
    names = [name.strip() for name in names]
    if unknown := set(names) - set(PEERS):
        sys.exit(f"Error: there is no peer {', '.join(sorted(unknown))}; they are: {', '.join(PEERS)}")
    return names


def main(quick=False, large=False, rounds=None, peers=None, threads=None, work_dir=None, models_dir=None, output=None):
    """Run the benchmark.

    rounds: how often everything is measured. peers: some names, as in the table, separated by commas; ours is always
    there. threads: of each program. work_dir, models_dir: where files are kept (see lab.py). output: a folder.
    """
    settings, names = QUICK if quick else FULL, names_of(peers, quick)
    if large:
        settings = settings | {"sizes": ("355M", "774M", "1558M")}
    output = Path(output) if output else lab.HERE / "results" / ("quick" if quick else "")
    place = lab.Lab(work_dir, models_dir, threads)
    try:
        results = measure(place, names, settings, rounds or settings["rounds"], quick)
    except WorkerError as error:
        sys.exit(f"Error: {error}")
    finally:
        place.close()
    lab.save(results, output / "bench.json")
    report.main(output / "bench.json")


if __name__ == "__main__":
    Fire(main)
