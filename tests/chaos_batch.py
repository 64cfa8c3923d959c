"""Attack batch runs and check that no row is lost, written twice or wrong: python tests/chaos_batch.py --kills 1000.

A round continues 250 rows with the bundled model, in runs that are ended by signals, limits, a full disk, a second run,
or changes of the output, until all rows are finished. The rows are mixed: one or several samples, settings of their
own, a context that slides, errors. Every second output is compressed (.gz). Runs are forks of one process that has
loaded the model; a part of them are processes of their own. After each run the script checks the exit code, stderr, and
that every row that was finished before is still there; after the last run of a round, that each row is there once with
its text.
"""

import argparse
import collections
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "runner")]
os.chdir(ROOT)

from batch_runs import without_summary  # noqa: E402
from tqdm import tqdm  # noqa: E402, after the path

import batch  # noqa: E402
import utils  # noqa: E402
from cli import command  # noqa: E402
from runner import local  # noqa: E402
from runner.command import BATCH  # noqa: E402
from runner.gzip_members import Members  # noqa: E402
from runner.records import Records  # noqa: E402

MODEL = utils.load("tiny", fast=True)
TEXT = "Once upon a time there was a little girl named Lily who went to the park with her mom and saw a big dog"
SIGNALS = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGHUP: (129, -1), signal.SIGINT: (130,)}
ROWS_FAILED = 'failed; see "error" in the records'
QUIET_MESSAGES = ("Interrupted. Finished rows are kept", "Error: ", "")

# ---- runs ------------------------------------------------------------------------------------------------------


class Run:
    """A run of batch.py in a fork of this process. Attributes: `pid`; `code` and `stderr`, after `wait`."""

    def __init__(self, words, folder, prepare=lambda: None):
        self.log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, wait closes it
        self.done, done = os.pipe()  # the run writes to it when its records are complete
        self.code = None
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a run receives no signal before it can handle it
        self.pid = os.fork()
        if self.pid == 0:
            be_a_run(words, self.log, done, prepare)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(done)

    def is_complete(self):
        """Return whether the run has checked its output for the last time."""
        os.set_blocking(self.done, False)
        try:
            return os.read(self.done, 1) == b"x"
        except BlockingIOError:
            return False

    def has_ended(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, timeout=120):
        end = time.monotonic() + timeout
        while not self.has_ended():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise Violation("a run did not end")
            time.sleep(0.001)
        os.close(self.done)
        self.log.seek(0)
        self.stderr = without_summary(self.log.read().decode())
        self.log.close()
        return self.code


def be_a_run(words, log, done, prepare):
    """Be batch.py with these arguments, and end the process."""
    code = 0
    try:
        os.dup2(log.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        tqdm.set_lock(threading.RLock())  # forks share its own lock, and a killed one may hold it
        local.load_model = lambda *args, **options: MODEL
        finish = Records.finish

        def finish_and_tell(self):
            finish(self)
            os.write(done, b"x")

        Records.finish = finish_and_tell
        sys.argv = ["batch.py", *map(str, words)]
        prepare()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        command.run(batch.main, BATCH)
    except SystemExit as exit:
        code = exit.code or 0
    except KeyboardInterrupt:  # before or after the command
        code = 130
    except command.Terminated as error:  # while the handlers are installed or removed
        code = 128 + error.signum
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        os._exit(code)


class Violation(Exception):
    """A promise that a run broke."""


# ---- the state of an output ------------------------------------------------------------------------------------


def text_of(path):
    """Return the bytes of an output, unpacked as far as possible."""
    if not path.exists():
        return b""
    if path.suffix != ".gz":
        return path.read_bytes()
    with open(path, "rb") as file:
        return io.BufferedReader(Members(file)).read()


def finished_rows(path):
    """Return {(row, index): text} of the records of an output, with the error of a failed row as its text.

    Raise Violation if a record occurs twice or after damage.
    """
    rows = {}
    is_torn = False
    for line in text_of(path).splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # torn by an attack; the next run cuts it off
            record = None
        if record is None:
            is_torn = True
            continue
        key = (record["row"], record.get("index"))
        if is_torn or key in rows:
            raise Violation(f"{key} is in the output twice, or after a damaged line")
        rows[key] = record.get("text", record.get("error"))
    return rows


def whole_rows(rows, expected):
    """Return the keys of the rows that have all of their samples; rows with an error are tried again."""
    n_found = collections.Counter(row for row, _ in rows)
    n_expected = collections.Counter(row for row, _ in expected)
    return {
        key for key in rows if n_found[key[0]] == n_expected[key[0]] and key[1] is not None
    }  # errors are tried again


def write_prompts(path, n_rows, rng):
    with open(path, "w", encoding="utf-8") as file:
        for number in range(n_rows):
            file.write(json.dumps({**row_of(rng), "id": number}) + "\n")


def row_of(rng):
    """Return a row: most are short, some have settings of their own, slide or fail."""
    words = TEXT.split()
    start = rng.randrange(len(words) - 5)
    row = {"prompt": " ".join(words[start : start + rng.randint(1, 5)])}
    row |= {"n_tokens_to_generate": rng.randint(1, 4), "num_samples": rng.choice((1, 1, 1, 2))}
    kind = rng.random()
    if kind < 0.1:
        row |= {"temperature": 0.7, "top_k": 5, "stop": "a", "options": {"echo": True}}
    elif kind < 0.15:
        row |= {"seed": 5, "temperature": 1, "logprobs": 2, "options": {"n": 3, "logprobs": 1}}
        del row["num_samples"]
    elif kind < 0.17:
        row |= {"prompt": f"{TEXT}. " * 20, "options": {"context": "slide", "keep": 2}, "n_tokens_to_generate": 20}
    elif kind < 0.2:
        row |= rng.choice(({"prompt": 3}, {"top_p": 7}, {"prompt": "x " * 2000}))
    return row


# ---- attacks: each runs batch.py once and returns the exit codes that are right -----------------------------------


class Attacks:
    """The attacks on one output. Attributes: `counts` of everything that happened; `may_lose`, after an attack."""

    def __init__(self, folder, prompts, rng):
        self.folder = folder
        self.prompts = prompts
        self.write_to("out.jsonl")
        self.rng = rng
        self.counts = collections.Counter()
        self.may_lose = False

    def write_to(self, name):
        self.out = self.folder / name
        self.words = [self.prompts, "--output", self.out, "--seed", 11, "--model_size", "tiny", "--batch_size"]

    def start(self, *more, prepare=lambda: None):
        return Run([*self.words, self.rng.choice((8, 16, 64)), *more], self.folder, prepare)

    def end(self, run, codes):
        """Wait for a run; check its exit code and its message."""
        code = run.wait()
        if code == 1 and ROWS_FAILED in run.stderr:  # the run is complete; some rows have an error
            code = 0
        lines = run.stderr.strip("\n").split("\n")
        self.counts[f"exit code {code}"] += 1
        if code not in codes or "Traceback" in run.stderr or len(lines) > 1 or not lines[0].startswith(QUIET_MESSAGES):
            raise Violation(f"exit code {code}, expected one of {codes}; stderr: {run.stderr}")
        return code

    def pause(self, run, longest=0.15):
        end = time.monotonic() + self.rng.uniform(0, longest)
        while time.monotonic() < end and not run.has_ended():
            time.sleep(0.0005)

    def send(self, signum=None):
        signum = signum or self.rng.choice(list(SIGNALS))
        run = self.start()
        self.pause(run)
        if not run.has_ended():
            os.kill(run.pid, signum)
            self.counts[f"{signal.Signals(signum).name} sent"] += 1
        return self.end(run, (0, *SIGNALS[signum]))

    def end_process(self):
        """Send a signal to a process of its own, from the start of Python on."""
        signum = self.rng.choice(list(SIGNALS))
        arguments = [sys.executable, "batch.py", *map(str, self.words), "8"]
        log = self.folder / "log"
        with open(log, "wb") as stderr:
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stderr)
        time.sleep(self.rng.uniform(0.15, 0.8))
        if process.poll() is None:
            process.send_signal(signum)
            self.counts[f"{signal.Signals(signum).name} sent to a process of its own"] += 1
        code = process.wait(timeout=120)
        text = log.read_text(encoding="utf-8")
        if code == 1 and ROWS_FAILED in text:
            code = 0
        if code not in (0, -2, *SIGNALS[signum]) or ("Traceback" in text and code != -2):
            raise Violation(f"exit code {code} after {signum}: {text}")
        return code

    def limit_size(self):
        """Let the disk be full after some more bytes."""
        size = self.out.stat().st_size if self.out.exists() else 0
        limit = size + self.rng.randrange(5000)
        run = self.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        return self.end(run, (0, 1))

    def limit_memory(self):
        limit = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        limit += self.rng.randrange(30_000_000)
        run = self.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        self.pause(run)
        if not run.has_ended():
            os.kill(run.pid, signal.SIGKILL)
            self.counts["SIGKILL sent to a run with little memory"] += 1
        return self.end(run, (0, 1, -9))

    def start_two(self):
        """Start two runs at once; one of them has to wait for another time."""
        runs = [self.start(), self.start()]
        self.pause(runs[0])
        for run in runs[: self.rng.randint(1, 2)]:
            if not run.has_ended():
                os.kill(run.pid, signal.SIGKILL)
                self.counts["SIGKILL sent to one of two runs"] += 1
        codes = [self.end(run, (0, 2, -9)) for run in runs]
        return max(codes)

    def change(self, action, name):
        """Delete, truncate or replace the output during a run. It must notice, unless it was complete."""
        run = self.start()
        self.pause(run)
        if run.has_ended():
            return self.end(run, (0, 1))
        os.kill(run.pid, signal.SIGSTOP)
        is_open = not run.has_ended() and self.out.exists()
        before = self.out.stat() if is_open else None
        if is_open:
            action()
            self.may_lose = True
        was_complete = run.is_complete()
        os.kill(run.pid, signal.SIGCONT)
        code = self.end(run, (0, 1))
        self.counts[name] += is_open
        if code == 0 and is_open and not was_complete and self.out.exists():
            return 0  # the run had not opened it: the caller checks that all rows are there
        if code == 0 and is_open and not was_complete:
            raise Violation(f"{name} with {before.st_size} bytes, but the exit code is 0")
        return 1 if is_open else code

    def delete(self):
        return self.change(self.out.unlink, "outputs deleted")

    def truncate(self):
        return self.change(lambda: os.truncate(self.out, self.rng.randrange(self.out.stat().st_size + 1)), "truncated")

    def tear(self):
        """Leave what a power failure leaves: a shorter file, and perhaps zeros after it."""
        if self.out.exists():
            os.truncate(self.out, max(0, self.out.stat().st_size - self.rng.randrange(600)))
            if finished_rows(self.out):
                with open(self.out, "ab") as file:
                    blank = bytes(5000) if self.out.suffix == ".gz" else b"\n\n"
                    file.write(self.rng.choice((b"", bytes(self.rng.randrange(5000)), blank)))
            self.may_lose = True
            self.counts["outputs torn"] += 1
        return self.send()

    def write_to_fifo(self, expected):
        """Write to a FIFO, whose reader may close it."""
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        n_read = self.rng.choice((-1, self.rng.randrange(20_000)))
        received = []

        def read():
            with open(fifo, "rb", buffering=0) as file:
                while n_read < 0 or sum(map(len, received)) < n_read:
                    received.append(file.read(4096))
                    if not received[-1]:
                        return

        reader = threading.Thread(target=read)
        run = Run([self.words[0], "--output", fifo, *self.words[3:], 16], self.folder)
        reader.start()
        code = self.end(run, (0,) if n_read < 0 else (0, 1))
        reader.join()
        fifo.unlink()
        lines = b"".join(received).split(b"\n")[:-1]
        rows = {
            (record["row"], record.get("index")): record.get("text", record.get("error"))
            for record in map(json.loads, lines)
        }
        if any(expected[key] != text for key, text in rows.items()) or len(rows) != len(lines):
            raise Violation("a record in the FIFO is wrong or there twice")
        if n_read < 0 and rows != expected:
            raise Violation(f"the exit code is {code}, but the reader of the FIFO has {len(rows)} rows")
        self.counts["FIFOs"] += 1


# ---- rounds ----------------------------------------------------------------------------------------------------


def play_round(attacks, expected):
    """Attack an output until all of its rows are finished; check it after each attack."""
    attacks.out.unlink(missing_ok=True)
    others = [attacks.limit_size, attacks.limit_memory, attacks.start_two, attacks.delete, attacks.truncate]
    others += [attacks.tear, attacks.tear]
    code = None
    n_attacks = 0
    while code != 0:
        before = finished_rows(attacks.out)
        attacks.may_lose = False
        if n_attacks > 60:
            code = attacks.end(attacks.start(), (0,))
        elif attacks.rng.random() < 0.03:
            code = attacks.end_process()
        else:
            code = attacks.send() if attacks.rng.random() < 0.8 else attacks.rng.choice(others)()
        n_attacks += 1
        attacks.counts["runs"] += 1
        after = finished_rows(attacks.out)
        lost = whole_rows(before, expected) - after.keys()
        if lost and not attacks.may_lose:
            raise Violation(f"{len(lost)} rows were lost, such as {min(lost)}")
        wrong = [key for key, text in after.items() if expected[key] != text]
        if wrong:
            raise Violation(f"the text of {wrong[0]} is {after[wrong[0]]!r}, not {expected[wrong[0]]!r}")
        if code == 0 and (after.keys() != expected.keys() or text_of(attacks.out).count(b"\n") != len(expected)):
            raise Violation(f"the exit code is 0, but {len(expected) - len(after)} records are missing")
    attacks.counts["rows finished"] += len({row for row, _ in expected})


def n_kills(counts):
    return sum(n for name, n in counts.items() if "SIGKILL sent" in name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="number of SIGKILLs; other signals are sent too")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rows_per_round", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prompts = folder / "prompts.jsonl"
        write_prompts(prompts, asked.rows_per_round, rng)
        attacks = Attacks(folder, prompts, rng)
        attacks.end(attacks.start(), (0,))
        expected = finished_rows(attacks.out)
        n_rounds = 0
        try:
            while n_kills(attacks.counts) < asked.kills or attacks.counts["rows finished"] < asked.rows:
                attacks.write_to("out.jsonl.gz" if n_rounds % 2 else "out.jsonl")
                play_round(attacks, expected)
                if n_rounds % 4 == 0:
                    attacks.write_to_fifo(expected)
                n_rounds += 1
                print(n_rounds, "rounds,", n_kills(attacks.counts), "kills", flush=True)
                if time.monotonic() - start > asked.seconds:
                    break
        finally:
            print(f"seed {asked.seed}, {n_rounds} rounds, {time.monotonic() - start:.0f} s")
            for name, n in sorted(attacks.counts.items()):
                print(f"{n:8} {name}")
    print("No row was lost, written twice or wrong.")


if __name__ == "__main__":
    main()
