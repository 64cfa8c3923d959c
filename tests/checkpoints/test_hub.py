"""Downloads from Hugging Face, from a server of this test on 127.0.0.1."""

import hashlib
import http.server
import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest
from conftest import requires
from model_folders import assert_golden

import utils
from checkpoints import hub
from checkpoints.files import CheckpointError

huggingface_hub = requires("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "somebody/small-gpt2"


class Server(http.server.ThreadingHTTPServer):
    """The parts of Hugging Face's interface that the package uses, for one model."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = files  # {name: bytes}
        self.requests = []
        self.status = {}  # {beginning of a path: (status, X-Error-Code)}
        self.sent = {}  # {name: bytes that are sent in place of the file}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def names_requested(self):
        """Return the names of the files whose content was requested."""
        found = [re.fullmatch(rf"GET /{REPO}/resolve/[^/]+/(.+)", line) for line in self.requests]
        return {match[1] for match in found if match}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        for beginning, (status, code) in self.server.status.items():
            if path.startswith(beginning):
                return self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})
        if re.fullmatch(rf"/api/models/{REPO}(/revision/[^/]+)?", path):
            return self.send(200, json.dumps(self.model()).encode(), {"Content-Type": "application/json"})
        match = re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", path)
        if match and match[2] in self.server.contents:
            return self.send_file(match[2])
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def model(self):
        siblings = [
            {"rfilename": name, "size": len(raw), "blobId": hashlib.sha1(raw).hexdigest()}
            for name, raw in self.server.contents.items()
        ]
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    def send_file(self, name):
        raw = self.server.contents[name]
        tag = hashlib.sha256(raw).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        self.send(200, self.server.sent.get(name, raw), headers, announced=len(raw))

    def send(self, status, content, headers, announced=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(golden_folders, tmp_path, monkeypatch):
    folder = golden_folders / "hf"
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    contents |= {"README.md": b"text", "tf_model.h5": b"x", "onnx/model.onnx": b"x", "pytorch_model.bin": b"x"}
    server = Server(contents)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    use_endpoint(monkeypatch, server.url, tmp_path / "hub")
    yield server
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch, url, cache):
    """Let the package, which reads its environment when it is imported, use this address and this cache."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in list(sys.modules):
        if module.partition(".")[0] == "huggingface_hub":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def find(name=REPO, offline=False, models_dir=Path("models")):
    return hub.find(hub.parse_name(name), models_dir, offline)


# ---- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uer/gpt2-chinese-cluecorpussmall", ("uer/gpt2-chinese-cluecorpussmall", None)),
        ("owner/name@main", ("owner/name", "main")),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
        (f"owner/name@{COMMIT}", ("owner/name", COMMIT)),
        ("distilgpt2", ("distilbert/distilgpt2", None)),
        ("distilgpt2@v1.0", ("distilbert/distilgpt2", "v1.0")),
    ],
)
def test_names_of_models_are_recognized(text, expected):
    assert hub.parse_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "tiny", "a/b/c", "../x", "a/../b", "/etc/passwd", "a/b@", "a b/c", "a/b@x y", "-a/--b", "~/x", "./a/b"),
        *("a" * 200 + "/b", "a/b@" + "x" * 500, "a/.b", "á/b", "a/b\n", "http://a/b"),
    ],
)
def test_other_texts_are_no_names_of_models(text):
    assert hub.parse_name(text) is None


# ---- download --------------------------------------------------------------------------------------------------


def test_a_model_is_downloaded_and_its_logits_are_right(server, golden):
    assert_golden(find(), golden, "hf")


def test_only_the_files_that_are_read_are_requested(server):
    find()
    wanted = {"config.json", "generation_config.json", "vocab.json", "merges.txt", "model.safetensors"}
    assert server.names_requested() == wanted


def test_the_place_and_the_size_are_announced(server, caplog):
    with caplog.at_level(logging.INFO, logger="picogpt"):
        find()
    assert re.search(rf"downloading {REPO} from {server.url}: 5 files, 0\.0 MB, to .*hub", caplog.text)


def test_a_commit_is_requested_once(server):
    folder = find(f"{REPO}@{COMMIT}")
    server.requests.clear()
    assert find(f"{REPO}@{COMMIT}") == folder
    assert server.requests == []


def test_a_second_run_downloads_no_file_again(server):
    folder = find()
    server.requests.clear()
    assert find() == folder
    assert server.names_requested() == set()


def test_offline_means_no_request(server):
    with pytest.raises(CheckpointError, match=rf"{REPO} is not on this machine, and --offline"):
        find(offline=True)
    assert server.requests == []
    folder = find()
    server.requests.clear()
    assert find(offline=True) == folder
    assert server.requests == []


def test_without_a_server_the_copy_of_an_earlier_download_is_used(server, caplog):
    folder = find()
    server.status["/"] = (503, "")
    assert find() == folder
    assert "the copy of an earlier download is used" in caplog.text


def test_without_a_server_and_a_copy_the_error_names_the_address(tmp_path, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")
    with pytest.raises(CheckpointError, match=rf"{REPO} cannot be downloaded from http://127.0.0.1:9 \(\w+\): check"):
        find()


@pytest.mark.parametrize(
    ("code", "status", "kind", "said"),
    [
        ("RepoNotFound", 404, ValueError, "there is no model somebody/small-gpt2 at .*or it is private"),
        ("RepoNotFound", 401, ValueError, "there is no model somebody/small-gpt2"),
        ("RevisionNotFound", 404, ValueError, "has no revision"),
        ("GatedRepo", 403, CheckpointError, "ask for access at .*/somebody/small-gpt2, and set HF_TOKEN"),
        ("", 500, CheckpointError, "cannot be downloaded from"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_reason(server, code, status, kind, said):
    server.status["/api/models/"] = (status, code)
    with pytest.raises(kind, match=said) as error:
        find()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_model_without_weights_that_are_read_here_is_refused_before_a_download(server):
    for name in ("model.safetensors", "pytorch_model.bin"):
        del server.contents[name]
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or pytorch_model\.bin .*tf_model\.h5"):
        find()
    assert server.names_requested() == set()


def test_shards_are_requested_with_their_index(server, golden, golden_folders):
    del server.contents["model.safetensors"]
    del server.contents["pytorch_model.bin"]
    server.contents |= {path.name: path.read_bytes() for path in (golden_folders / "hf_sharded").iterdir()}
    assert_golden(find(), golden, "hf_sharded")


def test_a_truncated_answer_leaves_no_file_under_its_final_name(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the package's own retries
    server.sent["model.safetensors"] = server.contents["model.safetensors"][:500]
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        find()
    with pytest.raises(CheckpointError, match="is not on this machine"):
        find(offline=True)
    server.sent.clear()
    assert (find() / "model.safetensors").stat().st_size == len(server.contents["model.safetensors"])


def test_the_command_finds_a_model_by_its_name(server, tmp_path):
    model = utils.load(REPO, tmp_path / "models")
    assert model.n_vocab == 31
    assert model.name == REPO


def test_without_the_package_the_error_gives_both_ways(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ValueError, match=r"pip install huggingface_hub and run again, or put its config\.json"
    ) as error:
        find("distilgpt2", models_dir=tmp_path / "models")
    assert str(error.value).endswith("--model_size distilgpt2")
    assert str(tmp_path / "models" / "distilgpt2") in str(error.value)
