"""Windows, as far as it shows elsewhere: nothing that its Python lacks is used, and its paths are understood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from studies.records.network_shares import DRIVE, Mount, mount_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("basics", "search_spaces", "scorers", "studies", "optimizer")


@pytest.mark.slow
def test_nothing_is_used_that_python_has_not_on_windows(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--platform=win32",
            "--no-warn-unreachable",
            f"--cache-dir={tmp_path}",
            *PACKAGES,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


DRIVES = [Mount("C:\\", "NTFS"), Mount("Z:\\", DRIVE)]


@pytest.mark.parametrize(
    ("path", "is_share"),
    [(r"C:\merges\mergetune.db", False), (r"Z:\mergetune.db", True), (r"\\server\share\mergetune.db", True)],
)
def test_network_drives_are_shares(path: str, is_share: bool) -> None:
    mount = mount_of(PureWindowsPath(path), DRIVES)
    assert mount is not None
    assert mount.is_share is is_share
