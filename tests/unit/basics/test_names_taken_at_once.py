"""Files that get their names while others want the same ones, or have put something else there; and killed writers."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from basics import files
from basics.files import is_same_file, open_lock_file, open_to_write, remove_dead_parts, replacing
from optimizer.errors import ExportError
from optimizer.merging.engine.export import atomic_file
from optimizer.merging.files.targets import refuse_target
from studies.errors import DatabaseError
from studies.files.artifacts import Artifacts
from studies.records.database import open_database

WRITER = """
import sys
from pathlib import Path
from basics.files import open_to_write, replacing
target, content, overwrite = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "overwrite"
try:
    with replacing(target, overwrite=overwrite) as part, open_to_write(part) as file:
        file.write(content.encode())
        file.flush()
        print(part.parent.name, flush=True)
        sys.stdin.readline()
except FileExistsError:
    sys.exit(2)
"""


@contextmanager
def writer(target: Path, content: str, *, overwrite: bool) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has written its file in a part folder, and gives it its name once it is told to."""
    mode = "overwrite" if overwrite else "keep"
    command = [sys.executable, "-c", WRITER, str(target), content, mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def part_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.wait(timeout=30)


def test_of_several_processes_that_want_a_free_name_exactly_one_gets_it(tmp_path: Path) -> None:
    target = tmp_path / "merge.safetensors"
    with (
        writer(target, "one", overwrite=False) as one,
        writer(target, "two", overwrite=False) as two,
        writer(target, "three", overwrite=False) as three,
    ):
        processes = {"one": one, "two": two, "three": three}
        assert len({part_of(process) for process in processes.values()}) == 3
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        codes = {content: process.wait(timeout=30) for content, process in processes.items()}
    assert sorted(codes.values()) == [0, 2, 2]
    assert codes[target.read_text()] == 0, "the name holds what the one wrote that succeeded"
    assert list(tmp_path.iterdir()) == [target]


def save_as_safetensors(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path)


def save_by_renaming(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("content")
    other.replace(path)


def write_while(act: Callable[[], object], target: Path, **options: Any) -> None:
    """Write a file; before it gets its name, something else is done."""
    with atomic_file(target, **options) as temporary:
        temporary.write_text("late")
        act()


def test_a_name_that_was_taken_while_the_file_was_written_stays_taken(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(ExportError, match=r"exists: .*--recipe, or --force"):
        write_while(lambda: target.write_text("early"), target, overwrite=False, option="--recipe")
    assert target.read_text() == "early"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("take", [files._take_free_name, files._replace_reservation])
def test_every_way_to_take_a_free_name_leaves_a_taken_one(take: Callable[[Path, Path], None], tmp_path: Path) -> None:
    target, part = tmp_path / "file", tmp_path / "part"
    part.write_text("new")
    take(part, target)
    assert target.read_text() == "new"
    part.write_text("newer") if not part.exists() else None
    with pytest.raises(FileExistsError):
        take(part, target)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        take(part, dangling)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a system call of Linux")
def test_a_file_is_renamed_without_replacing_where_links_are_unknown(tmp_path: Path) -> None:
    target, part = tmp_path / "file", tmp_path / "part"
    part.write_text("new")
    assert files._renamed_without_replacing(part, target)
    assert (target.read_text(), part.exists()) == ("new", False)
    part.write_text("newer")
    with pytest.raises(FileExistsError):
        files._renamed_without_replacing(part, target)
    assert target.read_text() == "new"


def test_a_file_that_is_replaced_as_soon_as_it_has_its_name_is_not_taken_for_the_proven_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with replacing(target) as part:
        part.write_text("proven")
        proven = part.lstat()
    assert is_same_file(proven, target)
    with replacing(target) as part:
        part.write_text("another")
    assert not is_same_file(proven, target)


# ------------------------------------------------------------------------------- what is no file


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def make_link(path: Path) -> None:
    path.with_name("elsewhere").write_text("of somebody else")
    path.symlink_to("elsewhere")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


NO_FILES = {"pipe": make_pipe, "socket": make_socket, "device": make_device}
LINKS = {"dangling link": make_dangling_link, "link": make_link, "link to itself": make_loop}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in (NO_FILES | LINKS).items()])
def test_nothing_but_a_file_is_replaced_by_a_command(
    make: Callable[[Path], None], overwrite: bool, tmp_path: Path
) -> None:
    target = tmp_path / "merge.safetensors"
    make(target)
    before = target.lstat()
    with pytest.raises(ExportError, match=r"give .*path .*with -o"), atomic_file(target, overwrite=overwrite):
        pass
    with pytest.raises(ExportError, match="--plot"):
        refuse_target(target, overwrite=overwrite, option="--plot")
    after = target.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in NO_FILES.items()])
def test_what_takes_a_name_during_the_work_and_is_no_file_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    target = tmp_path / "merge.safetensors"
    with pytest.raises(ExportError, match="not a file"):
        write_while(lambda: make(target), target, overwrite=True)
    assert not stat.S_ISREG(target.lstat().st_mode)


def test_nothing_is_written_through_a_link_at_a_part_files_name(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "file"
    victim.write_text("of somebody else")
    with replacing(target) as part:
        part.unlink()
        part.symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            open_to_write(part)
        part.unlink()
        part.touch()
    assert victim.read_text() == "of somebody else"


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to], ids=["link", "second name"])
def test_nothing_is_written_into_somebody_elses_file_at_a_locks_name(
    plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """A second name is what `cp --link` gives the lock of a study that is copied: it is locked all the same."""
    victim = tmp_path / "victim"
    victim.write_text("of somebody else")
    plant(tmp_path / "study.db.lock", victim)
    refused = pytest.raises(DatabaseError, match="a lock is a file: remove it")
    with refused if plant is Path.symlink_to else nullcontext():
        open_database(f"sqlite:///{tmp_path}/study.db")
    assert victim.read_text() == "of somebody else"


@pytest.mark.parametrize("make", [make_pipe, make_dangling_link])
def test_a_locks_file_is_a_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "study.db.lock")
    with pytest.raises(DatabaseError, match="a lock is a file: remove it"):
        open_database(f"sqlite:///{tmp_path}/study.db")
    assert not (tmp_path / "nothing").exists()


def test_a_locks_file_that_may_only_be_read_is_opened_all_the_same(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch(mode=0o444)
    os.close(open_lock_file(lock))


def test_a_link_at_an_artifacts_name_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{tmp_path}/study.db")
    files_of_trial = artifacts.of_trial("key", 0, "worker")
    planted, victim = Path(artifacts.location) / files_of_trial.name("features.npz"), tmp_path / "victim"
    victim.write_text("of somebody else")
    planted.parent.mkdir(parents=True)
    planted.symlink_to(victim)
    files_of_trial.save_features({})
    assert victim.read_text() == "of somebody else"
    assert not planted.is_symlink()


# -------------------------------------------------------------------------------- killed writers


@pytest.mark.parametrize("other", ["the same", "another"])
def test_what_a_killed_writer_left_is_removed_by_the_next_in_its_folder(other: str, tmp_path: Path) -> None:
    target = tmp_path / "merge.safetensors"
    with writer(target, "half", overwrite=True) as process:
        left = tmp_path / part_of(process)
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert left.exists()
    later = target if other == "the same" else tmp_path / "plot.png"
    with replacing(later) as part:
        part.write_text("whole")
    assert list(tmp_path.iterdir()) == [later]


def test_a_writer_that_is_frozen_is_not_dead(tmp_path: Path) -> None:
    target = tmp_path / "merge.safetensors"
    with writer(target, "frozen", overwrite=True) as process:
        left = tmp_path / part_of(process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        with replacing(tmp_path / "other") as part:
            part.write_text("whole")
        assert left.exists()
        process.send_signal(signal.SIGCONT)
        assert finish(process) == 0
    assert target.read_text() == "frozen"
    assert not left.exists()


def test_a_writer_that_was_killed_after_it_gave_the_name_leaves_the_file(tmp_path: Path) -> None:
    """Without replacing, a file has both names for a moment."""
    target, part = tmp_path / "merge.safetensors", tmp_path / ".merge.safetensors.mergetune-0123456789abcdef.part"
    target.write_text("whole")
    part.mkdir()
    (part / files.LOCK_NAME).write_bytes(files._this_machine())
    (part / "merge.safetensors").hardlink_to(target)
    remove_dead_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "whole"


def test_files_of_others_stay_whatever_they_are_called(tmp_path: Path) -> None:
    names = (".x.part", "download.part", ".x.123-0a1b2c3d.part", "x.mergetune-0123456789abcdef.part")
    for name in names:
        (tmp_path / name).touch()
    pipe, link, file = (tmp_path / f".x.mergetune-{digit * 16}.part" for digit in "012")
    make_pipe(pipe)
    folder = tmp_path / "folder"
    folder.mkdir()
    link.symlink_to(folder)
    file.touch()
    remove_dead_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, pipe.name, link.name, file.name, folder.name}


@pytest.mark.parametrize(("age", "left"), [(0, True), (2 * files.LEFT_BEHIND_SECONDS, False)])
def test_what_another_machine_has_left_stays_for_a_day(age: float, left: bool, tmp_path: Path) -> None:
    """Locks of some network file systems hold for one machine only: its writer may live."""
    part = tmp_path / ".merge.mergetune-0123456789abcdef.part"
    part.mkdir()
    lock = part / files.LOCK_NAME
    lock.write_text("another machine")
    os.utime(lock, (time.time() - age,) * 2)
    remove_dead_parts(tmp_path)
    assert part.exists() == left


def test_a_part_folder_without_a_lock_is_removed_if_nothing_is_in_it(tmp_path: Path) -> None:
    empty, full = (tmp_path / f".x.mergetune-{digit * 16}.part" for digit in "01")
    empty.mkdir()
    full.mkdir()
    (full / "notes.txt").touch()
    remove_dead_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [full]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOTSUP, errno.EPERM])
def test_a_file_system_that_makes_no_links_gets_the_file(
    code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with replacing(tmp_path / "file", overwrite=False) as part:
        part.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("write", [save_as_safetensors, save_by_renaming])
def test_what_a_library_has_put_in_the_place_of_the_file_is_not_taken_for_left_behind(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    """safetensors writes another file and renames it: nobody holds a lock on that one."""
    target = tmp_path / "merge.safetensors"
    with replacing(target) as part:
        write(part)
        remove_dead_parts(tmp_path)  # as another writer does
        assert part.is_file()
    assert target.stat().st_size > 0
    assert list(tmp_path.iterdir()) == [target]


def test_a_long_name_gets_its_file(tmp_path: Path) -> None:
    target = tmp_path / ("ü" * 120 + ".safetensors")
    with replacing(target) as part:
        part.write_text("content")
    assert target.read_text() == "content"
