"""Locks between processes: as this system has them, and the form for Windows over a stand-in for its C library."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = textwrap.dedent("""
    import os, sys
""")
# What Windows adds to these modules. Its locks of bytes are those of POSIX records, which a process does not share.
AS_ON_WINDOWS = textwrap.dedent("""
    import fcntl, os, sys, types

    def locking(handle, mode, count):
        assert mode == 2 and os.lseek(handle, 0, os.SEEK_CUR) > 1_000_000  # far behind the content
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
        except OSError as error:
            raise PermissionError(13, "Permission denied") from error

    sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    os.O_BINARY, os.O_NOINHERIT = 0, os.O_CLOEXEC
    sys.modules["fcntl"], sys.platform = None, "win32"
""")
HOLD = textwrap.dedent("""
    from basics.file_locks import PLAINLY, content_of, replace_content, take_lock

    handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | PLAINLY)
    try:
        take_lock(handle)
    except BlockingIOError:
        print("taken by", content_of(handle, 99).decode(), flush=True)
    else:
        replace_content(handle, sys.argv[2].encode())
        print("mine", flush=True)
        sys.stdin.readline()
""")
systems = pytest.mark.parametrize("system", [HERE, AS_ON_WINDOWS], ids=["here", "as on Windows"])


def process(system: str, file: Path, who: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", system + HOLD, file, who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )


def said(by: subprocess.Popen[str]) -> str:
    assert by.stdout is not None
    return by.stdout.readline().strip()


@systems
def test_one_process_has_it_and_others_read_who(system: str, tmp_path: Path) -> None:
    with process(system, tmp_path / "lock", "the very first") as first:
        assert said(first) == "mine"
        with process(system, tmp_path / "lock", "second") as second:
            assert said(second) == "taken by the very first"
        first.kill()
    with process(system, tmp_path / "lock", "third") as third:
        assert said(third) == "mine"  # it went with the process that was killed
        third.communicate("\n")
    assert (tmp_path / "lock").read_text() == "third"


@systems
def test_it_makes_the_file_no_longer_than_its_content(system: str, tmp_path: Path) -> None:
    with process(system, tmp_path / "lock", "me") as holder:
        assert said(holder) == "mine"
        assert (tmp_path / "lock").stat().st_size == 2
        holder.communicate("\n")
