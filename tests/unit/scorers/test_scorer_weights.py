"""Finding, fetching and opening weight files, against a real server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from scorers.aesthetics.kinds import AESTHETIC_V2
from scorers.distances.kinds import FID_INCEPTION
from scorers.errors import MissingWeightsError, WrongWeightsError
from scorers.weights import fetch
from scorers.weights.public import HubFile, PublicFile
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"weights, or so" * 1000


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at every address but /missing; counts the requests that transfer it."""

    downloads = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.downloads += 1
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def pinned(url: str, content: bytes = CONTENT) -> PublicFile:
    return PublicFile(
        title="test weights",
        name="test.pth",
        url=url,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        licence="MIT",
        setting="head",
    )


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_named_file_is_taken_and_a_wrong_name_told(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    with pytest.raises(MissingWeightsError, match=r"no file at .*mine.pth, named by option 'head'"):
        fetch.resolve(mine, pinned("http://unused"), tmp_path)
    with pytest.raises(MissingWeightsError, match=r"named by option 'head', is a folder: give the file itself"):
        fetch.resolve(tmp_path, pinned("http://unused"), tmp_path)
    mine.write_bytes(b"anything")
    assert fetch.resolve(mine, pinned("http://unused"), tmp_path) == mine


def test_a_download_is_checked_kept_and_not_repeated(server: Server, tmp_path: Path) -> None:
    wanted = pinned(f"{server.address}/file")
    cache = tmp_path / "not" / "yet"
    path = fetch.resolve(None, wanted, cache)
    assert (path, path.read_bytes()) == (cache / "test.pth", CONTENT)
    assert fetch.resolve(None, wanted, cache) == path
    assert server.downloads == 1
    assert [file.name for file in cache.iterdir()] == ["test.pth"]


def test_a_download_with_another_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WrongWeightsError, match=r"test weights: expected sha256 \w{64}, .* has \w{64}"):
        fetch.resolve(None, pinned(f"{server.address}/file", b"other" * 5000), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_is_too_long_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WrongWeightsError):
        fetch.resolve(None, pinned(f"{server.address}/file", CONTENT[:10]), tmp_path)


def test_a_damaged_cache_file_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "test.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(WrongWeightsError, match=r"13999 of 14000 bytes\): delete .*test.pth"):
        fetch.resolve(None, pinned(f"{server.address}/file"), tmp_path)
    assert server.downloads == 0


@pytest.mark.parametrize("url", ["refused", "missing"])
def test_a_missing_file_says_what_it_is_and_where_to_put_it(server: Server, url: str, tmp_path: Path) -> None:
    address = f"{server.address}/missing" if url == "missing" else f"http://127.0.0.1:{closed_port()}/file"
    began = time.monotonic()
    with pytest.raises(MissingWeightsError) as caught:
        fetch.resolve(None, pinned(address), tmp_path)
    assert time.monotonic() - began < 8
    for part in ("test weights", "test.pth", "MIT", address, str(tmp_path / "test.pth"), "option 'head'"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_costs_no_more_than_the_time_given() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert not fetch.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.3)
        assert time.monotonic() - began < 2


def test_an_error_page_is_an_answer(server: Server) -> None:
    assert fetch.answers(f"{server.address}/missing", timeout_s=5)


def on_the_hub(*names: str, sha256: str | None = None) -> HubFile:
    return HubFile(
        title="CLIP x",
        repository="org/repo",
        names=names,
        size_bytes=1,
        licence="MIT",
        setting="weights",
        sha256=sha256,
    )


def test_a_hub_file_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--org--repo"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    stored = folder / "snapshots" / ("0" * 40) / "b.bin"
    stored.write_bytes(b"x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = fetch.resolve_hub_file(on_the_hub("a.safetensors", "b.bin"), advice="do")
    assert found == stored
    assert fetch.resolve(None, on_the_hub("b.bin", sha256=hashlib.sha256(b"x").hexdigest()), tmp_path) == stored
    with pytest.raises(WrongWeightsError, match=rf"CLIP x: expected sha256 0000.*, b.bin has .*: delete {stored}"):
        fetch.resolve(None, on_the_hub("b.bin", sha256="0" * 64), tmp_path)


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_hub_file_is_told_in_seconds(offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    began = time.monotonic()
    with pytest.raises(MissingWeightsError, match=r"CLIP x \(a.safetensors\) is not in .*org/repo, then set it"):
        fetch.resolve_hub_file(on_the_hub("a.safetensors"), advice="set it")
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_come_back_as_they_were_saved(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.float16)}
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    loaded = load_tensors(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state)


class Payload:
    """What an attacker would put into a pickle: a call on loading."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("attacked",))


@pytest.mark.parametrize("kind", ["zip", "bare pickle"])
def test_a_file_with_code_is_refused_and_not_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    if kind == "zip":
        torch.save({"a": Payload()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Payload()}, protocol=2))
    with pytest.raises(WrongWeightsError, match="cannot be opened as a file of plain tensors") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)
    assert not Path("attacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "got a mapping with int"),
        (torch.ones(2), "got a Tensor"),
        ({}, "got an empty mapping"),
        ({"state_dict": {}}, "got an empty mapping"),
        ([torch.ones(2)], "got a list of 1 element without names"),
        ({"state": {}, "param_groups": []}, "got the state of an optimizer"),
        (torch.nn.Linear(1, 1), "a whole module was saved instead of its state_dict"),
    ],
)
def test_anything_but_named_tensors_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(WrongWeightsError, match=message):
        load_tensors(tmp_path / "file.pt")


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
def test_an_html_page_in_place_of_weights_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(WrongWeightsError, match="is a web page"):
        load_tensors(tmp_path / name)


def test_pinned_digests_look_like_digests() -> None:
    for wanted in (AESTHETIC_V2, FID_INCEPTION):
        assert len(bytes.fromhex(wanted.sha256)) == 32
        assert wanted.url.startswith("https://")
    assert FID_INCEPTION.sha256[:8] in FID_INCEPTION.name
