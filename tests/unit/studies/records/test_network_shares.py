"""SQLite on a network share is told by the mount it lies on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command_line import caller, enter
from hypothesis import given
from hypothesis import strategies as st

from studies.errors import DatabaseError
from studies.records import network_shares
from studies.records.database import open_database
from studies.records.network_shares import Mount, mount_of, mounts, parse_mountinfo, require_local

# As the manual page has it, and as a machine with shares shows it.
TEXT = r"""
22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
36 28 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 28 0:44 / /srv/models rw,relatime shared:20 - nfs4 server:/export/a\040b rw,vers=4.2,addr=10.0.0.1
41 40 8:17 / /srv/models/local rw,relatime - xfs /dev/sdb1 rw
42 28 0:50 / /home/me/my\040share rw - fuse.sshfs me@host:/data rw,user_id=0
43 28 0:51 / /srv/modelsbackup rw - btrfs /dev/sdc rw
44 28 0:52 / /mnt/c rw - 9p C:\134 rw,dirsync,aname=drvfs
45 28 8:33 / /mnt/over rw - ext4 /dev/sdd1 rw
46 45 0:53 / /mnt/over rw - cifs //nas/share rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/x.db", "/", "ext4"),
        ("/srv/models/x.db", "/srv/models", "nfs4"),
        ("/srv/models", "/srv/models", "nfs4"),
        ("/srv/models/local/deep/x.db", "/srv/models/local", "xfs"),
        ("/srv/modelsbackup/x.db", "/srv/modelsbackup", "btrfs"),
        ("/srv/modelsother/x.db", "/", "ext4"),
        ("/home/me/my share/x.db", "/home/me/my share", "fuse.sshfs"),
        ("/home/me/my", "/", "ext4"),
        ("/mnt/c/Users/x.db", "/mnt/c", "9p"),
        ("/mnt/over/x.db", "/mnt/over", "cifs"),
        ("/mnt2/x.db", "/mnt2", "ext3"),
    ],
)
def test_a_path_lies_on_the_last_of_the_longest_mounts(path: str, point: str, kind: str) -> None:
    assert mount_of(Path(path), parse_mountinfo(TEXT)) == Mount(point, kind)


def test_the_root_of_a_sandbox_is_no_share() -> None:
    assert not Mount("/", "9p").is_share
    assert Mount("/", "nfs").is_share  # a machine without a disk


def test_shares_are_known_by_their_kind() -> None:
    kinds = {mount.point: mount.is_share for mount in parse_mountinfo(TEXT)}
    assert [point for point, share in kinds.items() if share] == [
        "/srv/models",
        "/home/me/my share",
        "/mnt/c",
        "/mnt/over",
    ]


def test_without_mounts_nothing_is_known() -> None:
    assert mount_of(Path("/x"), []) is None
    assert parse_mountinfo("\nnonsense\n1 2 - \n") == []


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=8).filter(
    lambda name: name not in {".", ".."}
)


@given(st.lists(names, max_size=4), st.sampled_from(["ext4", "nfs"]))
def test_every_name_of_a_folder_is_understood(folders: list[str], kind: str) -> None:
    point = "/" + "/".join(folders)
    escaped = "".join(f"\\{ord(sign):03o}" if sign in " \t\n\\" else sign for sign in point)
    text = f"28 1 8:1 / {escaped} rw,relatime shared:1 - {kind} source rw"
    assert parse_mountinfo(text) == [Mount(point, kind)]


def test_only_a_file_on_a_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "mountinfo"
    monkeypatch.setattr(network_shares, "MOUNTS", listing)
    folder = tmp_path / "share"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    listing.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {folder} rw - smb3 //nas/x rw\n")
    require_local(f"sqlite:///{tmp_path}/study.db")
    require_local("postgresql+psycopg://me@host/name")
    for place in (folder, tmp_path / "link"):
        with pytest.raises(DatabaseError, match=r"is on a network share .*smb3.*--storage, or use PostgreSQL"):
            require_local(f"sqlite:///{place}/study.db")


def test_what_writes_to_a_study_is_refused_and_what_reads_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = caller(monkeypatch, capsys)
    enter(tmp_path, monkeypatch)
    open_database(f"sqlite:///{tmp_path}/study.db").close()
    listing = tmp_path / "mountinfo"
    listing.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {tmp_path} rw - nfs4 nas:/x rw\n")
    monkeypatch.setattr(network_shares, "MOUNTS", listing)
    spec = "study: a\nparents: [a.safetensors, b.safetensors]\nsuite: {prompts: [a cat]}\nscorers: {sharpness: }\n"
    (tmp_path / "spec.yaml").write_text(spec)
    for parent in ("a", "b"):
        (tmp_path / f"{parent}.safetensors").touch()
    writing = ("study start spec.yaml", "study resume a", "study finish a", "study stop a", "study pause a", "worker")
    for words in (*writing, "study priority a 1", "study prune-artifacts a", "study doctor --mend"):
        told = call(*words.split(), "--storage", "study.db", code=2).err
        assert "is on a network share" in told.replace("\n", " ")
    call("study", "list", "--storage", "study.db", code=0)


@pytest.mark.skipif(not network_shares.MOUNTS.exists(), reason="only Linux lists its mounts there")
def test_this_machines_own_file_system_is_found(tmp_path: Path) -> None:
    found = mount_of(tmp_path.resolve(), mounts())
    assert found is not None
    told = subprocess.run(["stat", "-c", "%m", str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.point == told.stdout.strip()
