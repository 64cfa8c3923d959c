"""Downloading an official model, from a server on this machine that does all that servers do."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import four_at_once, tiny_tensors

from checkpoints import download, files
from utils import CheckpointError, load_encoder_hparams_and_params

ROOT = Path(__file__).parents[2]
DATA = "model.ckpt.data-00000-of-00001"
NEEDED = ["hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index", "checkpoint", DATA]
NOT_FOUND = b"<html><body>The page you look for is not here</body></html>"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {path: bytes}. What it does is scripted for each path, a word a request; then it is good."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.script, self.requests, self.encodings = {}, defaultdict(list), [], set()
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def names_requested(self):
        return [path.rpartition("/")[2] for path, _ in self.requests]

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of some tests


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        script = self.server.script[self.path]
        word, _, argument = (script.pop(0) if script else "good").partition(" ")
        if word == "good" and self.path not in self.server.files:
            word, argument = "status", "404"
        getattr(self, f"answer_{word}")(self.server.files.get(self.path, b""), argument)

    def answer(self, body, status=200, announce=None, **headers):
        self.send_response(status)
        if announce is not None:
            self.send_header("Content-Length", announce)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if announce != len(body):
            self.close_connection = True

    def answer_good(self, body, _):
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            if start >= len(body):
                return self.answer(b"", 416, 0, Content_Range=f"bytes */{len(body)}")
            headers = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return self.answer(body[start:], 206, len(body) - start, **headers)
        return self.answer(body, 200, len(body))

    def answer_without_range(self, body, _):
        self.answer(body, 200, len(body))

    def answer_other_range(self, body, _):
        self.answer(body[1:], 206, len(body) - 1, Content_Range=f"bytes 1-{len(body) - 1}/{len(body)}")

    def answer_truncate(self, body, _):
        self.answer(body[: len(body) // 2], 200, len(body))

    def answer_reset(self, body, _):
        self.answer(body[: len(body) // 2], 200, len(body))
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()  # with no linger: an RST, not a FIN

    def answer_until_close(self, body, _):
        self.answer(body, 200)

    def answer_until_early_close(self, body, _):
        self.answer(body[: len(body) // 2], 200)

    def answer_chunked(self, body, argument):
        self.answer(b"", 200, Transfer_Encoding="chunked")
        for start in range(0, len(body), 100):
            chunk = body[start : start + 100]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if argument != "cut":
            self.wfile.write(b"0\r\n\r\n")

    def answer_status(self, _, argument):
        self.answer(NOT_FOUND, int(argument), len(NOT_FOUND), Content_Type="text/html; charset=utf-8")

    def answer_page(self, _, content_type):
        self.answer(NOT_FOUND, 200, len(NOT_FOUND), Content_Type=content_type)

    def answer_wrong(self, body, _):
        self.answer(bytes(len(body)), 200, len(body))

    def answer_too_long(self, body, _):
        with contextlib.suppress(OSError):
            self.answer(bytes(2**24), 200)

    def answer_redirect(self, _, argument):
        self.answer(b"", 302, 0, Location=argument)

    def answer_never(self, _, __):
        self.server.stopping.wait()
        self.close_connection = True


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def models(server, pristine_tiny, tmp_path, monkeypatch):
    """An empty models_dir, for which the server has a 124M that is really the tiny model."""
    contents = {name: (pristine_tiny / name).read_bytes() for name in NEEDED}
    server.files = {f"/124M/{name}": raw for name, raw in contents.items()}
    facts = {name: (len(raw), hashlib.sha256(raw).hexdigest()) for name, raw in contents.items()}
    monkeypatch.setattr(download, "OFFICIAL", {"124M": facts, "355M": facts})
    monkeypatch.setattr(download, "BACK_OFF", (0, 0, 0))
    monkeypatch.setattr(files, "CHUNK", 1000)
    monkeypatch.setenv("PICOGPT_MODELS_URL", server.url)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "models"


def load(models, model_size="124M"):
    return load_encoder_hparams_and_params(model_size, models)[2]


def assert_loads(models):
    np.testing.assert_array_equal(load(models)["wte"], tiny_tensors(seed=1)["model/wte"])
    assert sorted(path.name for path in (models / "124M").iterdir()) == sorted([*NEEDED, "model.safetensors", ".lock"])


def assert_fails(models, match, **left):
    """The error matches, and of the file in question nothing is left but `part` bytes to go on from."""
    with pytest.raises(CheckpointError, match=match) as error:
        load(models)
    folder = models / "124M"
    assert not (folder / DATA).exists() and not (folder / "model.safetensors").exists()
    parts = {path.name.removesuffix(".part"): path.stat().st_size for path in folder.glob("*.part")}
    assert parts == left.get("parts", {})
    return str(error.value)


def unknown(monkeypatch, name, size=True):
    """Forget the SHA-256, and maybe the size, of a file."""
    facts = download.OFFICIAL["124M"]
    monkeypatch.setitem(facts, name, (facts[name][0] if size else None, None))


# ---- it works --------------------------------------------------------------------------------------------------


def test_a_model_is_downloaded_converted_and_loaded_and_the_next_time_asks_nobody(server, models):
    assert_loads(models)
    assert server.names_requested() == NEEDED
    assert_loads(models)
    assert len(server.requests) == len(NEEDED)


def test_an_alias_downloads_its_size(server, models):
    load(models, "gpt2")
    assert (models / "124M" / DATA).exists()


def test_a_slash_after_the_address_does_no_harm(server, models, monkeypatch):
    monkeypatch.setenv("PICOGPT_MODELS_URL", f"{server.url}/")
    assert_loads(models)


@pytest.mark.parametrize("setting", ["", None])
def test_without_a_setting_the_address_is_openai_s(models, monkeypatch, setting):
    monkeypatch.delenv("PICOGPT_MODELS_URL") if setting is None else monkeypatch.setenv("PICOGPT_MODELS_URL", setting)
    monkeypatch.setattr(download, "receive", lambda url, part, size: pytest.fail(url))
    with pytest.raises(
        pytest.fail.Exception, match=r"https://openaipublic.blob.core.windows.net/gpt-2/models/124M/hpara"
    ):
        load(models)


@pytest.mark.parametrize(
    "words",
    [
        ["status 500"],
        ["status 503", "status 502", "status 429"],
        ["truncate"],
        ["reset"],
        ["truncate", "reset", "status 500"],
        ["truncate", "without_range"],
        ["truncate", "other_range"],
        ["truncate", "status 416"],
        ["until_close"],
        ["until_early_close"],
        ["chunked"],
        ["chunked cut"],
        ["truncate", "chunked"],
        ["redirect /elsewhere"],
    ],
)
@pytest.mark.parametrize("name", ["hparams.json", DATA])
def test_a_troubled_connection_is_overcome(server, models, name, words):
    server.files["/elsewhere"] = server.files[f"/124M/{name}"]
    server.script[f"/124M/{name}"] = list(words)
    assert_loads(models)
    assert server.script[f"/124M/{name}"] == []


@pytest.mark.parametrize("word", ["until_close", "chunked", "truncate", "chunked cut"])
def test_a_file_of_unknown_size_and_hash_is_downloaded_whole(server, models, monkeypatch, word):
    unknown(monkeypatch, "model.ckpt.index", size=False)
    server.script["/124M/model.ckpt.index"] = [word]
    assert_loads(models)


def test_only_what_is_missing_of_a_file_is_asked_for(server, models):
    raw = server.files[f"/124M/{DATA}"]
    server.script[f"/124M/{DATA}"] = ["reset"]
    assert_loads(models)
    half = len(raw) // 2 // files.CHUNK * files.CHUNK  # the last chunk is lost with the connection
    assert [asked for path, asked in server.requests if path.endswith(DATA)] == [None, f"bytes={half}-"]


def test_the_bytes_are_asked_for_as_they_are_for_one_cannot_go_on_in_the_middle_of_a_zip(server, models):
    load(models)
    assert server.encodings == {"identity"}


def test_a_download_goes_on_where_an_earlier_process_was_stopped(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"][:3000])
    assert_loads(models)
    assert (f"/124M/{DATA}", "bytes=3000-") in server.requests


def test_a_part_that_is_whole_is_not_asked_for_again(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"])
    assert_loads(models)
    assert DATA not in server.names_requested()


@pytest.mark.parametrize("size", [True, False])
def test_a_part_that_is_too_long_is_started_over(server, models, monkeypatch, size):
    unknown(monkeypatch, DATA, size)
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"] + b"more")
    assert_loads(models)


# ---- a half-finished folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("content", [None, b"", b"short", b"long" * 10_000])
def test_a_half_finished_folder_heals_itself(server, models, name, content):
    (models / "124M").mkdir(parents=True)
    for other in NEEDED:
        (models / "124M" / other).write_bytes(server.files[f"/124M/{other}"])
    (models / "124M" / name).unlink() if content is None else (models / "124M" / name).write_bytes(content)
    assert_loads(models)
    assert server.names_requested() == [name]


def test_a_complete_folder_asks_nobody_and_is_not_locked(server, models):
    (models / "124M").mkdir(parents=True)
    for name in NEEDED:
        (models / "124M" / name).write_bytes(server.files[f"/124M/{name}"])
    download.ensure_files(models / "124M", NEEDED, download.OFFICIAL["124M"])
    assert server.requests == [] and not (models / "124M" / ".lock").exists()


def test_the_saved_copy_stands_for_the_checkpoint_it_was_made_from(server, models):
    assert_loads(models)
    for name in ("checkpoint", "model.ckpt.index", DATA):
        (models / "124M" / name).unlink()
    server.requests.clear()
    load(models)
    assert server.requests == []


def test_a_folder_with_weights_of_one_s_own_is_never_written_over(server, models, save_checkpoint):
    folder = models / "124M"
    folder.mkdir(parents=True)
    for name in ("hparams.json", "encoder.json", "vocab.bpe"):
        (folder / name).write_bytes(server.files[f"/124M/{name}"])
    save_checkpoint(folder, tiny_tensors(seed=2), prefix="model-77")
    np.testing.assert_array_equal(load(models)["wte"], tiny_tensors(seed=2)["model/wte"])
    assert server.requests == [] and not (folder / DATA).exists()


def test_a_folder_elsewhere_is_never_downloaded_to_whatever_its_name(server, models, tmp_path):
    (tmp_path / "mine" / "124M").mkdir(parents=True)
    for model_size, models_dir in ((tmp_path / "mine" / "124M", models), ("345M", models)):
        (models / "345M").mkdir(parents=True, exist_ok=True)
        with pytest.raises(CheckpointError, match=r"lacks hparams\.json"):
            load_encoder_hparams_and_params(model_size, models_dir)
    assert server.requests == []


# ---- it does not work, and says so -----------------------------------------------------------------------------


def assert_tells_how_to_do_without(message, models, base):
    for name in [
        *NEEDED,
        "model.ckpt.meta is not needed",
        f"from {base}/124M/ into {models / '124M'}",
        "--model_size tiny",
    ]:
        assert name in message
    assert len(message) < 1000 and "HTTPConnection" not in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_final_and_told_with_the_files_to_fetch_by_hand(server, models, status):
    server.script[f"/124M/{DATA}"] = [f"status {status}"] * 9
    message = assert_fails(models, rf"{DATA}: the server answered {status}")
    assert_tells_how_to_do_without(message, models, server.url)
    assert server.names_requested().count(DATA) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stays_busy_is_given_up_after_some_tries(server, models, status):
    server.script[f"/124M/{DATA}"] = [f"status {status}"] * 9
    message = assert_fails(models, f"the server answered {status}")
    assert_tells_how_to_do_without(message, models, server.url)
    assert server.names_requested().count(DATA) == 1 + len(download.BACK_OFF)


def test_the_waits_between_tries_are_those_of_back_off(server, models, monkeypatch):
    waits = []
    monkeypatch.setattr(download, "BACK_OFF", (0.5, 1, 2))
    monkeypatch.setattr("time.sleep", waits.append)
    server.script[f"/124M/{DATA}"] = ["status 500"] * 9
    assert_fails(models, "500")
    assert waits == [0.5, 1, 2]


@pytest.mark.parametrize("content_type", ["text/html", "text/html; charset=utf-8"])
@pytest.mark.parametrize("size", [True, False])
def test_a_web_page_is_never_kept_as_a_file(server, models, monkeypatch, content_type, size):
    unknown(monkeypatch, DATA, size)
    server.script[f"/124M/{DATA}"] = [f"page {content_type}"] * 9
    assert_fails(models, "a web page")
    assert_loads_after(server, models)


def test_an_error_page_that_says_it_is_data_is_not_kept_either(server, models):
    server.script[f"/124M/{DATA}"] = ["page application/octet-stream"] * 9
    size = len(server.files[f"/124M/{DATA}"])
    assert_fails(models, rf"expected bytes {size}, found {len(NOT_FOUND)}\. The download was deleted")
    assert server.names_requested().count(DATA) == 1
    assert_loads_after(server, models)


def assert_loads_after(server, models):
    server.script.clear()
    assert_loads(models)


def test_a_wrong_hash_is_told_and_the_file_deleted(server, models):
    raw = server.files[f"/124M/{DATA}"]
    server.script[f"/124M/{DATA}"] = ["wrong"] * 9
    expected, found = (hashlib.sha256(data).hexdigest() for data in (raw, bytes(len(raw))))
    message = assert_fails(models, rf"expected SHA-256 {expected}, found {found}\. The download was deleted")
    assert DATA in message and "run again" in message
    assert server.names_requested().count(DATA) == 1
    assert_loads_after(server, models)


def test_a_part_that_is_of_something_else_is_noticed_by_its_hash(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(b"something else")
    assert_fails(models, "expected SHA-256")
    assert_loads(models)


def test_without_a_known_hash_the_checksums_of_the_index_speak(server, models, monkeypatch):
    unknown(monkeypatch, DATA)
    server.script[f"/124M/{DATA}"] = ["wrong"]
    with pytest.raises(CheckpointError, match="Checksum does not match") as error:
        load(models)
    assert "delete model.ckpt.index and model.ckpt.data-*, then run again" in str(error.value)
    for path in (models / "124M").glob("model.ckpt.*"):  # as the message says
        path.unlink()
    assert_loads(models)


def test_of_a_body_that_is_too_long_no_more_is_received_than_shows_it(server, models):
    server.script[f"/124M/{DATA}"] = ["too_long"] * 9
    size = len(server.files[f"/124M/{DATA}"])
    message = assert_fails(models, f"expected bytes {size}, found")
    assert size < int(re.search(r"found (\d+)", message)[1]) <= size + files.CHUNK


def test_a_server_that_never_answers_is_given_up(server, models, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.05))
    server.script[f"/124M/{DATA}"] = ["never"] * 9
    assert_tells_how_to_do_without(assert_fails(models, "timed out"), models, server.url)
    assert server.names_requested().count(DATA) == 1 + len(download.BACK_OFF)


def test_what_was_received_of_a_file_is_kept_for_the_next_run(server, models):
    server.script[f"/124M/{DATA}"] = ["truncate", *["status 500"] * 9]
    half = len(server.files[f"/124M/{DATA}"]) // 2 // files.CHUNK * files.CHUNK
    assert_fails(models, "500", parts={DATA: half})
    server.requests.clear()
    assert_loads_after(server, models)
    assert server.requests == [(f"/124M/{DATA}", f"bytes={half}-")]


def test_offline_the_message_tells_how_to_do_without(models, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("PICOGPT_MODELS_URL", url)
        message = assert_fails(models, "refused")
    assert_tells_how_to_do_without(message, models, url)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/models", "http://:1", "file:///etc"])
def test_a_senseless_address_is_told(models, monkeypatch, url):
    monkeypatch.setenv("PICOGPT_MODELS_URL", url)
    assert_tells_how_to_do_without(assert_fails(models, url), models, url)


def test_a_folder_that_cannot_be_written_to_is_told(models):
    models.mkdir()
    (models / "124M").write_bytes(b"a file in the way: what mkdir says to it, it says to a read-only file system")
    with pytest.raises(CheckpointError, match=r"cannot download to .*124M.*--models_dir"):
        load(models)


def test_a_full_disk_is_told_with_the_folder(models, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(
        CheckpointError, match=r"cannot download to .*124M: .*No space left on device; free some disk space"
    ):
        load(models)


def test_tensorflow_missing_is_told_before_the_weights_are_downloaded(server, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CheckpointError, match="pip install tensorflow"):
        load(models)
    assert DATA not in server.names_requested()


def test_ctrl_c_keeps_what_was_received_and_no_file_under_its_name(server, models, monkeypatch):
    def interrupt(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(models)
    assert {path.name for path in (models / "124M").iterdir()} == {"hparams.json.part", ".lock"}
    monkeypatch.undo()


# ---- several at once, and what is said on the way --------------------------------------------------------------


def test_several_at_once_download_each_file_once_and_all_load(server, models):
    results = four_at_once(lambda: load(models))
    assert len(results) == 4
    assert server.names_requested() == NEEDED


def test_two_processes_at_once_do_not_disturb_each_other(server, models):
    code = (
        "import json, pathlib, sys\n"
        "from checkpoints import download\n"
        "facts = json.loads(sys.argv[1])\n"
        "download.ensure_files(pathlib.Path(sys.argv[2]), list(facts), facts)\n"
    )
    facts = download.OFFICIAL["124M"]
    arguments = [sys.executable, "-c", code, json.dumps(facts), str(models / "124M")]
    processes = [
        subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
        for _ in range(2)
    ]
    for process in processes:
        assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 0
    assert sorted(server.names_requested()) == sorted(NEEDED)
    for name in NEEDED:
        assert (models / "124M" / name).read_bytes() == server.files[f"/124M/{name}"]


def test_nothing_is_said_where_stderr_is_no_terminal(server, models, capfd):
    server.script[f"/124M/{DATA}"] = ["reset", "status 500"]
    assert_loads(models)
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_a_bar_in_bytes_and_why_there_is_a_new_try(server, models, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    server.script[f"/124M/{DATA}"] = ["status 503"]
    load(models)
    seen = terminal.getvalue()
    assert f"{DATA}: 100%" in seen and "B/s" in seen and "converting to model.safetensors" in seen
    assert "the server answered 503 Service Unavailable; trying again" in seen
