"""Files beside the database: renders without loss, features without pickle, sheets in Optuna's store."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna.artifacts import get_all_artifact_meta
from PIL import Image

from studies.artifacts import Artifacts
from studies.errors import DatabaseError


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("artifacts")
    return Artifacts.beside(f"sqlite:///{folder}/study.db")


def test_the_folder_stands_beside_the_sqlite_file(tmp_path: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{tmp_path}/merges.db")
    assert artifacts.folder == tmp_path / "merges-artifacts"
    assert artifacts.folder.is_dir()


def test_a_server_has_its_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = Artifacts.beside("postgresql+psycopg://host/name")
    assert artifacts.folder == tmp_path / "mergetune-artifacts"
    monkeypatch.chdir("/")  # it stays where it was
    assert artifacts.folder.is_dir()


def test_a_folder_that_is_named_is_taken(tmp_path: Path) -> None:
    assert Artifacts.beside("sqlite:///x.db", tmp_path / "a" / "b").folder == tmp_path / "a" / "b"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=f"{tmp_path}/file/below cannot be made"):
        Artifacts.beside("sqlite:///x.db", tmp_path / "file" / "below")


pixels = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).map(lambda shape: (*shape, 3)))


@given(pixels)
@settings(max_examples=30, deadline=None)
def test_a_render_comes_back_to_the_bit(
    artifacts: Artifacts, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    relative = artifacts.save_render("1", 2, 3, Image.fromarray(image))
    assert relative == "renders/1/2/0003.png"
    assert np.array_equal(np.asarray(artifacts.open_render(relative)), image)


def test_a_deleted_render_is_gone_and_may_be_deleted_again(artifacts: Artifacts) -> None:
    relative = artifacts.save_render("1", 9, 0, Image.new("RGB", (4, 4)))
    artifacts.delete(relative)
    artifacts.delete(relative)
    assert not (artifacts.folder / relative).exists()


scorer_names = st.text("abc file/.-_ é漢", min_size=1, max_size=10) | st.sampled_from(["file", "allow_pickle", "a.npy"])
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(width=32))


@given(st.dictionaries(scorer_names, rows, min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_features_come_back_to_the_bit_whatever_a_scorer_is_called(
    artifacts: Artifacts, features: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> None:
    artifacts.save_features("1", 2, features)
    back = artifacts.load_features("1", 2)
    assert list(back) == list(features)
    for name, values in features.items():
        assert back[name].dtype == values.dtype
        assert back[name].tobytes() == values.tobytes()


def test_features_of_a_trial_without_any_are_empty(artifacts: Artifacts) -> None:
    assert artifacts.load_features("1", 12345) == {}


def test_features_are_replaced_whole_and_leave_no_part_behind(artifacts: Artifacts) -> None:
    artifacts.save_features("5", 0, {"fid": np.zeros((2, 2)), "kid": np.zeros((2, 2))})
    artifacts.save_features("5", 0, {"fid": np.ones((2, 2))})
    assert artifacts.load_features("5", 0).keys() == {"fid"}
    assert [path.name for path in (artifacts.folder / "features" / "5").iterdir()] == ["0.npz"]


def test_a_pickle_among_the_features_is_refused_and_never_run(artifacts: Artifacts, tmp_path: Path) -> None:
    evidence = tmp_path / "executed"

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (evidence,))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch()], dtype=object), allow_pickle=True)
    artifacts.save_features("6", 0, {"fid": np.zeros((1, 1))})
    path = artifacts.folder / "features" / "6" / "0.npz"
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, buffer.getvalue())
    with pytest.raises(ValueError, match="pickle"):
        artifacts.load_features("6", 0)
    assert not evidence.exists()


def test_features_that_would_need_a_pickle_are_not_written(artifacts: Artifacts) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        artifacts.save_features("7", 0, {"fid": np.array([object()])})
    assert artifacts.load_features("7", 0) == {}


def test_a_contact_sheet_is_an_artifact_of_its_trial(artifacts: Artifacts) -> None:
    study = optuna.create_study()
    trial = study.ask()
    sheet = Image.new("RGB", (30, 20), (10, 200, 30))
    artifact = artifacts.save_sheet(trial, sheet)
    with Image.open(artifacts.sheet_path(artifact)) as stored:
        assert stored.format == "JPEG"  # to look at
        assert stored.size == sheet.size
        difference = np.asarray(stored, dtype=int) - np.asarray(sheet, dtype=int)
        assert np.abs(difference).max() <= 4  # of 255 grey levels
    (meta,) = get_all_artifact_meta(trial, storage=study._storage)
    assert (meta.artifact_id, meta.filename, meta.mimetype) == (artifact, "trial 0.jpg", "image/jpeg")
    with artifacts.store.open_reader(artifact) as reader:
        assert reader.read() == artifacts.sheet_path(artifact).read_bytes()
    assert sorted(path.name for path in artifacts.folder.iterdir() if path.name.startswith("tmp")) == []
