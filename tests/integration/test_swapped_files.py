"""Files that are swapped for others of the same size and modification time are not taken for the ones before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from demo_study import DEMO, short_spec
from PIL import Image
from safetensors.torch import load_file, save_file
from slow_cases import first_fast
from stored_study import store_study
from torch import Tensor

from basics.stamps import Stamp, stamp_of
from optimizer.errors import CheckpointError
from optimizer.merging.files.change_guard import OpenedFiles
from optimizer.runtime import digest_cache
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.model_files import ModelFolders
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan
from scorers.distances.references import reference_features
from scorers.errors import ReferenceImagesError
from studies.errors import StudyChangedError
from studies.records.database import open_database
from studies.spec.study import parse_spec

Swap = Callable[[Path], None]


def changed(path: Path) -> bytes:
    """The content with its last byte another: as long, and a sound file still."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return bytes(content)


def in_place(path: Path) -> None:
    """As `cp -p other path` does."""
    status, content = path.stat(), changed(path)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def renamed(path: Path) -> None:
    """As `rsync -t` does."""
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(changed(path))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def linked(path: Path) -> None:
    """As a tree of links does whose version is switched."""
    status, other = path.stat(), path.with_name("other.version")
    other.write_bytes(changed(path))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()
    path.symlink_to(other)


swaps = pytest.mark.parametrize("swap", [in_place, renamed, linked])


def planned(folder: Path, parent: Path, **changes: object) -> Plan:
    spec = short_spec(parents=[str(parent), str(DEMO / "foods.safetensors")], **changes)
    return make_plan(parse_spec(yaml.safe_dump(spec), base_dir=folder))


def as_safetensors(folder: Path) -> Path:
    return Path(shutil.copy(DEMO / "animals.safetensors", folder / "own.safetensors"))


def as_pickle(folder: Path) -> Path:
    torch.save(load_file(DEMO / "animals.safetensors"), folder / "own.ckpt", _use_new_zipfile_serialization=False)
    return folder / "own.ckpt"


@swaps
@pytest.mark.parametrize("written", first_fast(1, [as_safetensors, as_pickle]))
def test_a_swapped_parent_is_refused_when_the_study_goes_on(
    tmp_path: Path, written: Callable[[Path], Path], swap: Swap
) -> None:
    parent = written(tmp_path)
    known = hash_parents(planned(tmp_path, parent), digests=DigestCache(tmp_path / "sha256.json"))
    before = parent.stat()
    swap(parent)
    assert (before.st_size, before.st_mtime_ns) == (parent.stat().st_size, parent.stat().st_mtime_ns)
    with pytest.raises(StudyChangedError, match=r"parent A .* is not the file the study began with"):
        hash_parents(planned(tmp_path, parent), known, digests=DigestCache(tmp_path / "sha256.json"))


@swaps
def test_a_swapped_parent_is_not_found_in_the_model_folders(tmp_path: Path, swap: Swap) -> None:
    parent = as_safetensors(tmp_path)
    database = open_database(f"sqlite:///{tmp_path}/study.db")
    scores = {"sharpness": (1.0,) * 4, "contrast": (1.0,) * 4}
    study = store_study(database, "stored", lambda _: scores, trials=2).study
    database.close()
    (own, *_) = hash_parents(planned(tmp_path, parent))
    lost = replace(own, path=tmp_path / "before" / "own.safetensors")
    study = replace(study, parents=(lost,), spec=study.spec.model_copy(update={"scorers": {}}))
    folders = ModelFolders(folders=(tmp_path,), digests=DigestCache(tmp_path / "sha256.json"))
    assert folders.locate(study).parents == (own,)
    swap(parent)
    with pytest.raises(CheckpointError, match=r"parent A .* is not in the model folders"):
        ModelFolders(folders=(tmp_path,), digests=DigestCache(tmp_path / "sha256.json")).locate(study)


@swaps
def test_a_swapped_file_of_a_folder_is_seen(tmp_path: Path, swap: Swap) -> None:
    """Also one that is not the newest, and as large as before."""
    content = torch.randn(1 << 19)
    files = [tmp_path / "model" / name / "diffusion_pytorch_model.safetensors" for name in ("unet", "vae")]
    for file in files:
        file.parent.mkdir(parents=True)
        save_file({"x": content}, file)
    os.utime(files[0], (1, 1))
    digests = DigestCache(tmp_path / "sha256.json")
    before = [digests.of_file(file) for file in files]
    swap(files[0])
    after = [digests.of_file(file) for file in files]
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)


@swaps
def test_a_lora_or_vae_that_is_swapped_under_way_is_refused(tmp_path: Path, swap: Swap) -> None:
    paths = [tmp_path / "lora.safetensors", tmp_path / "vae.safetensors"]
    for path in paths:
        path.write_bytes(b"content")
        opened = OpenedFiles.now({"the file": tuple(paths[: paths.index(path) + 1])})
        opened.remember(DigestCache().of_file)
        opened.require_unchanged()
        swap(path)
        with pytest.raises(CheckpointError, match="has changed since it was opened"):
            opened.require_unchanged()


@pytest.mark.parametrize(
    "touch",
    [lambda path: path.chmod(0o640), lambda path: os.link(path, path.with_name("copy")), os.utime],
    ids=["permissions", "a link", "times"],
)
def test_what_leaves_the_content_as_it_is_stops_no_study(tmp_path: Path, touch: Swap) -> None:
    path = tmp_path / "parent.safetensors"
    path.write_bytes(b"content")
    opened = OpenedFiles.now({"parent A": (path,)})
    opened.remember(DigestCache().of_file)
    touch(path)
    opened.require_unchanged()
    in_place(path)
    with pytest.raises(CheckpointError, match="has changed"):
        opened.require_unchanged()


def test_a_file_that_was_put_back_is_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "parent.safetensors"
    path.write_bytes(b"content")
    opened = OpenedFiles.now({"parent A": (path,)})
    opened.remember(DigestCache().of_file)
    path.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="is gone"):
        opened.require_unchanged()
    shutil.copy(tmp_path / "away", path)
    opened.require_unchanged()


@pytest.mark.parametrize("lacking", [{"ctime_ns": 0}, {"inode": 0}])
def test_where_a_file_system_has_no_inodes_or_change_times_every_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: dict[str, int]
) -> None:
    path = tmp_path / "parent.safetensors"
    path.write_bytes(bytes(digest_cache.SMALL_BYTES))

    def poor(path: Path) -> Stamp:
        return stamp_of(path)._replace(device=0, inode=1, ctime_ns=1)._replace(**lacking)

    monkeypatch.setattr(digest_cache, "stamp_of", poor)
    digests = DigestCache(tmp_path / "sha256.json")
    before = digests.of_file(path)
    in_place(path)
    assert digests.of_file(path) != before


def test_an_entry_of_an_older_version_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "parent.safetensors"
    path.write_bytes(bytes(digest_cache.SMALL_BYTES))
    status = path.stat()
    state = [[str(path), status.st_size, status.st_mtime_ns]]
    (tmp_path / "sha256.json").write_text(json.dumps({str(path): [state, "0" * 64]}))
    assert DigestCache(tmp_path / "sha256.json").of_file(path) != "0" * 64


class Disturbed:
    """A network during whose work somebody swaps a picture."""

    digest = "d"

    def __init__(self, path: Path) -> None:
        self._path = path

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        Image.fromarray(np.full((8, 8, 3), len(images), np.uint8)).save(self._path)
        return torch.zeros(len(images), 2)


def test_features_of_pictures_that_were_swapped_meanwhile_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    with pytest.raises(ReferenceImagesError, match="was changed while its images were read"):
        reference_features(folder, Disturbed(folder / "b.png"), tmp_path / "cache", minimum=2)
    assert not [*tmp_path.glob("cache/**/*.safetensors")]
