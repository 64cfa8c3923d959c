"""Downloading an official model from a scripted HTTP server on this machine."""

import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import Terminal, four_at_once, tiny_tensors
from file_server import NOT_FOUND, Server
from model_folders import ROOT, convert

from checkpoints import download, files, transfer, verified
from checkpoints.download import DATA
from utils import CheckpointError, load_encoder_hparams_and_params

NEEDED = ["hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index", "checkpoint", DATA]


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
    """Return an empty models_dir. The server has a 124M for it, whose files are those of the tiny model."""
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
    assert sorted(path.name for path in (models / "124M").iterdir()) == sorted(
        [*NEEDED, "model.ckpt.verified", ".lock"]
    )


def assert_fails(models, match, parts=None):
    """Loading fails with an error that matches, and leaves no weights but the parts {name: bytes}."""
    with pytest.raises(CheckpointError, match=match) as error:
        load(models)
    folder = models / "124M"
    assert not (folder / DATA).exists() and not (folder / "model.safetensors").exists()
    found = {path.name.removesuffix(".part"): path.stat().st_size for path in folder.glob("*.part")}
    assert found == (parts or {})
    return str(error.value)


def unknown(monkeypatch, name, size=True):
    """Remove the SHA-256 of a file from the table, and its size unless `size`."""
    facts = download.OFFICIAL["124M"]
    monkeypatch.setitem(facts, name, (facts[name][0] if size else None, None))


# ---- success ---------------------------------------------------------------------------------------------------


def test_the_first_load_downloads_each_file_and_the_second_none(server, models):
    assert_loads(models)
    assert server.names_requested() == NEEDED
    assert_loads(models)
    assert len(server.requests) == len(NEEDED)


def test_an_alias_downloads_its_size(server, models):
    load(models, "gpt2")
    assert (models / "124M" / DATA).exists()


def test_a_slash_after_the_address_is_ignored(server, models, monkeypatch):
    monkeypatch.setenv("PICOGPT_MODELS_URL", f"{server.url}/")
    assert_loads(models)


@pytest.mark.parametrize("setting", ["", None])
def test_the_default_address_is_openai_s(models, monkeypatch, setting):
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
def test_a_download_survives_network_errors(server, models, name, words):
    server.files["/elsewhere"] = server.files[f"/124M/{name}"]
    server.script[f"/124M/{name}"] = list(words)
    assert_loads(models)
    assert server.script[f"/124M/{name}"] == []


@pytest.mark.parametrize("word", ["until_close", "chunked", "truncate", "chunked cut"])
def test_a_file_of_unknown_size_and_hash_is_downloaded_completely(server, models, monkeypatch, word):
    unknown(monkeypatch, "model.ckpt.index", size=False)
    server.script["/124M/model.ckpt.index"] = [word]
    assert_loads(models)


def test_a_retry_requests_only_the_missing_bytes(server, models):
    raw = server.files[f"/124M/{DATA}"]
    server.script[f"/124M/{DATA}"] = ["reset"]
    assert_loads(models)
    half = len(raw) // 2 // files.CHUNK * files.CHUNK  # the last chunk is lost with the connection
    assert [asked for path, asked in server.requests if path.endswith(DATA)] == [None, f"bytes={half}-"]


def test_requests_ask_for_uncompressed_bodies(server, models):
    load(models)
    assert server.encodings == {"identity"}


def test_a_download_resumes_where_an_earlier_process_stopped(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"][:3000])
    assert_loads(models)
    assert (f"/124M/{DATA}", "bytes=3000-") in server.requests


def test_a_complete_part_is_not_requested_again(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"])
    assert_loads(models)
    assert DATA not in server.names_requested()


@pytest.mark.parametrize("size", [True, False])
def test_a_part_that_is_too_long_is_downloaded_again(server, models, monkeypatch, size):
    unknown(monkeypatch, DATA, size)
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(server.files[f"/124M/{DATA}"] + b"more")
    assert_loads(models)


# ---- an incomplete folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("content", [None, b"", b"short", b"long" * 10_000])
def test_an_incomplete_folder_is_completed(server, models, name, content):
    (models / "124M").mkdir(parents=True)
    for other in NEEDED:
        (models / "124M" / other).write_bytes(server.files[f"/124M/{other}"])
    (models / "124M" / name).unlink() if content is None else (models / "124M" / name).write_bytes(content)
    assert_loads(models)
    assert server.names_requested() == [name]


def test_a_complete_folder_causes_no_request_and_no_lock(server, models):
    (models / "124M").mkdir(parents=True)
    for name in NEEDED:
        (models / "124M" / name).write_bytes(server.files[f"/124M/{name}"])
    download.ensure_files(models / "124M", NEEDED, download.OFFICIAL["124M"])
    assert server.requests == [] and not (models / "124M" / ".lock").exists()


def test_the_converted_file_replaces_the_checkpoint(server, models):
    assert_loads(models)
    convert(models / "124M")
    for name in ("checkpoint", "model.ckpt.index", DATA):
        (models / "124M" / name).unlink()
    server.requests.clear()
    load(models)
    assert server.requests == []


def test_a_folder_with_the_user_s_own_weights_is_never_overwritten(server, models, save_checkpoint):
    folder = models / "124M"
    folder.mkdir(parents=True)
    for name in ("hparams.json", "encoder.json", "vocab.bpe"):
        (folder / name).write_bytes(server.files[f"/124M/{name}"])
    save_checkpoint(folder, tiny_tensors(seed=2), prefix="model-77")
    np.testing.assert_array_equal(load(models)["wte"], tiny_tensors(seed=2)["model/wte"])
    assert server.requests == [] and not (folder / DATA).exists()


def test_a_folder_outside_models_dir_or_without_a_size_as_its_name_is_never_downloaded_to(server, models, tmp_path):
    (tmp_path / "mine" / "124M").mkdir(parents=True)
    for model_size, models_dir in ((tmp_path / "mine" / "124M", models), ("345M", models)):
        (models / "345M").mkdir(parents=True, exist_ok=True)
        with pytest.raises(CheckpointError, match=r"holds no model in a known format"):
            load_encoder_hparams_and_params(model_size, models_dir)
    assert server.requests == []


# ---- failure ---------------------------------------------------------------------------------------------------


def assert_gives_manual_steps(message, models, base):
    for name in [
        *NEEDED,
        "model.ckpt.meta is not needed",
        f"from {base}/124M/ into {models / '124M'}",
        "--model_size tiny",
    ]:
        assert name in message
    assert len(message) < 1000 and "HTTPConnection" not in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_retried_and_the_error_gives_manual_steps(server, models, status):
    server.script[f"/124M/{DATA}"] = [f"status {status}"] * 9
    message = assert_fails(models, rf"{DATA}: the server answered {status}")
    assert_gives_manual_steps(message, models, server.url)
    assert server.names_requested().count(DATA) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_gets_a_limited_number_of_requests(server, models, status):
    server.script[f"/124M/{DATA}"] = [f"status {status}"] * 9
    message = assert_fails(models, f"the server answered {status}")
    assert_gives_manual_steps(message, models, server.url)
    assert server.names_requested().count(DATA) == 1 + len(download.BACK_OFF)


def test_the_pauses_before_retries_are_those_of_back_off(server, models, monkeypatch):
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


def test_an_error_page_declared_as_data_is_not_kept(server, models):
    server.script[f"/124M/{DATA}"] = ["page application/octet-stream"] * 9
    size = len(server.files[f"/124M/{DATA}"])
    assert_fails(models, rf"expected bytes {size}, found {len(NOT_FOUND)}\. The download was deleted")
    assert server.names_requested().count(DATA) == 1
    assert_loads_after(server, models)


def assert_loads_after(server, models):
    server.script.clear()
    assert_loads(models)


def test_a_file_with_a_wrong_hash_is_deleted_and_an_error(server, models):
    raw = server.files[f"/124M/{DATA}"]
    server.script[f"/124M/{DATA}"] = ["wrong"] * 9
    expected, found = (hashlib.sha256(data).hexdigest() for data in (raw, bytes(len(raw))))
    message = assert_fails(models, rf"expected SHA-256 {expected}, found {found}\. The download was deleted")
    assert DATA in message and "run again" in message
    assert server.names_requested().count(DATA) == 1
    assert_loads_after(server, models)


def test_a_part_of_another_file_fails_the_hash(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / f"{DATA}.part").write_bytes(b"something else")
    assert_fails(models, "expected SHA-256")
    assert_loads(models)


def test_the_index_s_checksums_detect_damage_if_the_hash_is_unknown(server, models, monkeypatch):
    unknown(monkeypatch, DATA)
    server.script[f"/124M/{DATA}"] = ["wrong"]
    with pytest.raises(CheckpointError, match="the checksum of the tensor") as error:
        load(models)
    assert f"delete {DATA} and run again" in str(error.value)
    for path in (models / "124M").glob("model.ckpt.*"):  # as the message advises
        path.unlink()
    assert_loads(models)


def test_a_body_that_is_too_long_is_received_up_to_the_first_excess_chunk(server, models):
    server.script[f"/124M/{DATA}"] = ["too_long"] * 9
    size = len(server.files[f"/124M/{DATA}"])
    message = assert_fails(models, f"expected bytes {size}, found")
    assert size < int(re.search(r"found (\d+)", message)[1]) <= size + files.CHUNK


def test_a_server_that_never_answers_times_out(server, models, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", (1, 0.05))
    server.script[f"/124M/{DATA}"] = ["never"] * 9
    assert_gives_manual_steps(assert_fails(models, "timed out"), models, server.url)
    assert server.names_requested().count(DATA) == 1 + len(download.BACK_OFF)


def test_the_received_part_of_a_file_is_kept_for_the_next_run(server, models):
    server.script[f"/124M/{DATA}"] = ["truncate", *["status 500"] * 9]
    half = len(server.files[f"/124M/{DATA}"]) // 2 // files.CHUNK * files.CHUNK
    assert_fails(models, "500", parts={DATA: half})
    server.requests.clear()
    assert_loads_after(server, models)
    assert server.requests == [(f"/124M/{DATA}", f"bytes={half}-")]


def test_the_error_without_a_network_gives_manual_steps(models, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening, so that no other process can answer
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("PICOGPT_MODELS_URL", url)
        message = assert_fails(models, "refused")
    assert_gives_manual_steps(message, models, url)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/models", "http://:1", "file:///etc"])
def test_the_error_for_an_invalid_address_gives_manual_steps(models, monkeypatch, url):
    monkeypatch.setenv("PICOGPT_MODELS_URL", url)
    assert_gives_manual_steps(assert_fails(models, url), models, url)


def test_the_error_for_an_unwritable_folder_names_it(models):
    models.mkdir()
    (models / "124M").write_bytes(b"a file in place of the folder; mkdir fails as on a read-only file system")
    with pytest.raises(CheckpointError, match=r"cannot download to .*124M.*--models_dir"):
        load(models)


def test_the_error_for_a_full_disk_names_the_folder(models, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(CheckpointError, match=r"cannot download to .*124M: .*No space left on device; free some"):
        load(models)


def test_a_model_is_downloaded_and_loaded_without_tensorflow(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_loads(models)


@pytest.mark.parametrize("is_published", [True, False])
def test_checksums_are_compared_only_if_no_hash_is_published(models, monkeypatch, is_published):
    if not is_published:
        unknown(monkeypatch, DATA)
    calls = []
    monkeypatch.setattr(verified, "compare", lambda *arguments: calls.append(1))
    assert_loads(models)
    assert len(calls) == (not is_published)


def test_ctrl_c_keeps_the_received_part_and_no_file_under_its_final_name(server, models, monkeypatch):
    def interrupt(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(models)
    assert {path.name for path in (models / "124M").iterdir()} == {"hparams.json.part", ".lock"}
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["hparams.json", DATA])
def test_short_answers_are_continued_until_the_file_is_complete(server, models, name):
    size = len(server.files[f"/124M/{name}"])
    server.script[f"/124M/{name}"] = [f"short_ranges {size // 10 + 1}"]
    assert_loads(models)
    assert server.names_requested().count(name) == 10  # more than there are retries


def test_a_file_of_unknown_size_is_received_up_to_the_limit_of_its_kind(server, models, monkeypatch):
    unknown(monkeypatch, "hparams.json", size=False)
    monkeypatch.setattr(files, "LARGEST_TEXT", 5000)
    server.script["/124M/hparams.json"] = ["too_long"]
    found = re.search(r"file: ([\d,]+) bytes that are no", assert_fails(models, "is not the official file"))
    assert 5000 < int(found[1].replace(",", "")) <= 6000


def test_a_sparse_part_of_a_terabyte_is_not_read(server, models, monkeypatch):
    unknown(monkeypatch, "hparams.json", size=False)
    (models / "124M").mkdir(parents=True)
    for name in ("hparams.json", DATA):
        with open(models / "124M" / f"{name}.part", "wb") as file:
            file.truncate(2**40)
    assert_loads(models)


def test_an_answer_without_the_bytes_requested_is_not_requested_for_ever(server, models):
    size = len(server.files[f"/124M/{DATA}"])
    answer = rf"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-0/{size}\r\nContent-Length: 0\r\n\r\n"
    server.script[f"/124M/{DATA}"] = [f"raw {answer}"] * 9
    assert_fails(models, "the server sent none of the bytes from 0 on")
    assert server.names_requested().count(DATA) == 1 + len(download.BACK_OFF)


def test_a_larger_file_is_reported_before_it_is_received(server, models):
    server.script[f"/124M/{DATA}"] = ["announce 1000000000"]
    server.files[f"/124M/{DATA}"] = size = server.files[f"/124M/{DATA}"]
    assert_fails(models, f"expected bytes {len(size)}, the server announces {len(size) + 1000000000}")
    assert server.names_requested().count(DATA) == 1


@pytest.mark.parametrize("name", ["hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index", "checkpoint"])
@pytest.mark.parametrize("word", ["plain_page", "padded_page", "wrong"])
def test_a_file_without_a_published_hash_is_checked_before_it_gets_its_name(server, models, monkeypatch, name, word):
    unknown(monkeypatch, name, size=False)
    server.script[f"/124M/{name}"] = [word] * 9
    message = assert_fails(
        models, rf"{name} is not the official file: [\d,]+ bytes that are no {name}\. The download was"
    )
    assert "run again" in message and not (models / "124M" / name).exists()
    assert_loads_after(server, models)


@pytest.mark.parametrize("content", [NOT_FOUND, b"", b"{", b"{}"])
def test_a_page_that_an_earlier_version_kept_is_downloaded_again(server, models, monkeypatch, content):
    unknown(monkeypatch, "hparams.json", size=False)
    (models / "124M").mkdir(parents=True)
    (models / "124M" / "hparams.json").write_bytes(content)
    assert_loads(models)


@pytest.mark.parametrize("word", ["drip", "drip_headers"])
def test_a_server_that_sends_a_byte_now_and_then_is_abandoned(server, models, monkeypatch, word):
    monkeypatch.setattr(download, "BACK_OFF", (0,))
    monkeypatch.setattr(transfer, "LONGEST_START", 0.4)
    monkeypatch.setattr(transfer, "LONGEST_CHUNK", 0.4)
    server.script["/124M/hparams.json"] = [word] * 9
    message = assert_fails(models, r"the server sent (no answer|fewer than 1,000 bytes) in 0\.4 seconds")
    assert_gives_manual_steps(message, models, server.url)
    assert server.names_requested() == ["hparams.json"] * 2


@pytest.mark.parametrize("to", ["http://[::1", "ftp://x/y", "file:///etc/passwd", "http://:1", "http://x:99999999/"])
def test_the_error_for_an_invalid_redirect_names_it_and_gives_manual_steps(server, models, to):
    server.script["/124M/hparams.json"] = [f"redirect {to}"] * 9
    message = assert_fails(models, re.escape(f"the server redirects to {to}"))
    assert_gives_manual_steps(message, models, server.url)
    assert "IPv6" not in message


def test_a_redirect_without_an_end_gives_manual_steps(server, models):
    server.script["/124M/hparams.json"] = ["redirect /124M/hparams.json"] * 99
    assert_gives_manual_steps(assert_fails(models, "redirects too often"), models, server.url)


@pytest.mark.parametrize("url", ["http://[::1", "http://x:99999999", "http://a b"])
def test_the_error_for_an_address_that_is_no_url_gives_manual_steps(models, monkeypatch, url):
    monkeypatch.setenv("PICOGPT_MODELS_URL", url)
    monkeypatch.setattr(download, "BACK_OFF", ())
    assert_gives_manual_steps(assert_fails(models, re.escape(url)), models, url)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_wrong_file_of_certificates_is_named(server, models, monkeypatch, name):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(name, "/no/such/bundle.pem")
    monkeypatch.setenv("PICOGPT_MODELS_URL", server.url.replace("http:", "https:"))
    message = assert_fails(
        models, f"{name} is /no/such/bundle.pem, which must be a file or a folder with the certificates"
    )
    assert "free some disk space" not in message and "--model_size tiny" in message


@pytest.mark.parametrize("words", [["status 404"] * 9, ["status 500"] * 9, ["redirect http://[::1"]])
def test_a_failed_start_leaves_no_folder(server, models, words):
    server.script["/124M/hparams.json"] = words
    assert_fails(models, "could not download")
    assert not models.exists()


def test_a_failed_start_leaves_a_folder_that_existed_and_what_it_held(server, models):
    (models / "124M").mkdir(parents=True)
    (models / "124M" / "notes").touch()
    server.script["/124M/hparams.json"] = ["status 404"]
    assert_fails(models, "could not download")
    assert (models / "124M" / "notes").exists()


def test_the_reason_of_an_answer_is_escaped_and_shortened(server, models):
    server.script["/124M/hparams.json"] = ["reason \x1b[31m" + "x" * 9000]
    message = assert_fails(models, r"the server answered 404 \\x1b\[31mx")
    assert len(message) < 1000 and message.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (r"garbage\r\n\r\n", "the connection failed|BadStatusLine"),
        (r"HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 5000 + r"\r\n\r\n", r"\w"),
        (
            r"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            "the server's answer cannot be read",
        ),
        (r"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", r"\w"),
        (r"HTTP/1.1 206 OK\r\n\r\nx", "the server answered 206 OK to a request for the bytes from 0 on"),
    ],
)
def test_an_invalid_answer_gives_manual_steps(server, models, answer, said):
    server.script["/124M/hparams.json"] = [f"raw {answer}"] * 9
    assert_gives_manual_steps(assert_fails(models, said), models, server.url)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO"])
def test_a_part_that_is_a_link_or_a_fifo_is_an_error_and_leaves_its_target_unchanged(models, tmp_path, kind):
    (tmp_path / "precious").write_bytes(b"precious")
    (models / "124M").mkdir(parents=True)
    part = models / "124M" / "hparams.json.part"
    make = {"symbolic link": part.symlink_to, "hard link": part.hardlink_to, "FIFO": lambda _: os.mkfifo(part)}
    make[kind](tmp_path / "precious")
    with pytest.raises(
        CheckpointError, match=r"hparams\.json\.part (is a symbolic link|is a FIFO|has several names).*remove"
    ):
        load(models)
    assert (tmp_path / "precious").read_bytes() == b"precious"


# ---- several processes, and messages ---------------------------------------------------------------------------


def test_four_threads_download_each_file_once_and_all_load(server, models):
    results = four_at_once(lambda: load(models))
    assert len(results) == 4
    assert server.names_requested() == NEEDED


def test_two_processes_can_download_the_same_model_at_once(server, models):
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


def test_a_download_prints_nothing_if_stderr_is_no_terminal(server, models, capfd):
    server.script[f"/124M/{DATA}"] = ["reset", "status 500"]
    assert_loads(models)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def log_terminal(monkeypatch):
    """Return a terminal on which picoGPT's logger writes its remarks."""
    terminal = Terminal()
    log = logging.getLogger("picogpt")
    level = log.level
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(terminal)])
    log.setLevel(logging.INFO)
    yield terminal
    log.setLevel(level)


def test_a_terminal_shows_a_bar_in_bytes_and_the_reason_for_a_retry(server, models, log_terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log_terminal)
    server.script[f"/124M/{DATA}"] = ["status 503"]
    load(models)
    seen = log_terminal.getvalue()
    assert f"{DATA}: 100%" in seen and "B/s" in seen
    assert "the server answered 503 Service Unavailable; trying again" in seen
