"""Pictures on a terminal: a real process writes to a pseudo-terminal, and what arrives is decoded as its kind does."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("chafa", exc_type=ImportError)

SCRIPT = """
import sys
from optimizer.cli.common import console
from optimizer.cli.views.terminal_pictures import show_picture
console.print("before")
show_picture(sys.argv[1])
console.print("after")
"""
KITTY = {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}
ITERM = {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "LC_TERMINAL": "iTerm2", "ITERM_SESSION_ID": "w0"}
SIXELS = {"TERM": "foot"}


def on_a_terminal(environment: dict[str, str], picture: Path) -> bytes:
    """What a process wrote to its terminal, whose variables are these alone."""
    ours, theirs = pty.openpty()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(picture)],
        env=kept | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=Path(__file__).parents[2],
    ) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += (part := os.read(ours, 65536))
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
        assert process.wait(timeout=60) == 0, said
    os.close(ours)
    assert said.startswith(b"before\r\n")
    assert said.endswith(b"after\r\n")
    return said


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Red on the left, blue on the right, 320 x 160."""
    pixels = np.zeros((160, 320, 3), np.uint8)
    pixels[:, :160, 0] = pixels[:, 160:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "sheet.png")
    return tmp_path / "sheet.png"


def assert_shows_it(shown: np.ndarray) -> None:
    """As a terminal has decoded it, [height, width, at least 3 channels]."""
    height, width = shown.shape[:2]
    assert width == pytest.approx(2 * height, rel=0.1)
    left, right = shown[:, : width // 4, :3].mean((0, 1)), shown[:, -width // 4 :, :3].mean((0, 1))
    assert left == pytest.approx([255, 0, 0], abs=4)
    assert right == pytest.approx([0, 0, 255], abs=4)


def test_kitty_gets_the_pixels(picture: Path) -> None:
    said = on_a_terminal(KITTY, picture)
    blocks = re.findall(rb"\x1b_G([^;\x1b]*);?([^\x1b]*)\x1b\\", said)
    keys = dict(pair.split(b"=") for pair in blocks[0][0].split(b","))
    data = b"".join(base64.b64decode(data) for _, data in blocks)
    assert keys[b"f"] == b"32"
    assert_shows_it(np.frombuffer(data, np.uint8).reshape(int(keys[b"v"]), int(keys[b"s"]), 4))


def test_iterm_gets_a_picture_file(picture: Path) -> None:
    found = re.search(rb"\x1b\]1337;File=inline=1[^:]*:([A-Za-z0-9+/=\r\n]+)[\a\x1b]", on_a_terminal(ITERM, picture))
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as shown:
        assert_shows_it(np.asarray(shown.convert("RGB")))


def test_a_terminal_of_sixels_gets_sixels(picture: Path) -> None:
    found = re.search(rb'\x1bP[\d;]*q"1;1;(\d+);(\d+)(.*?)\x1b\\', on_a_terminal(SIXELS, picture), re.DOTALL)
    assert found is not None
    assert int(found[1]) == pytest.approx(2 * int(found[2]), rel=0.1)
    colours = {tuple(map(int, each)) for each in re.findall(rb"#\d+;2;(\d+);(\d+);(\d+)", found[3])}
    assert {(100, 0, 0), (0, 0, 100)} <= colours  # percent


@pytest.mark.parametrize("environment", [{"TERM": "xterm-256color"}, {"TERM": "dumb"}, KITTY | {"TMUX": "/tmp/t,1,0"}])
def test_another_terminal_gets_nothing_that_it_would_print_as_text(environment: dict[str, str], picture: Path) -> None:
    assert on_a_terminal(environment, picture) == b"before\r\nafter\r\n"


def test_a_picture_that_is_gone_or_damaged_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("damaged.png", "gone.png"):
        assert on_a_terminal(KITTY, tmp_path / name) == b"before\r\nafter\r\n"
