"""Files of studies, in a folder and in an S3-compatible store: whole or not there, and without pickle."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from object_store import BUCKET, ObjectStore, object_store
from optuna.artifacts import download_artifact, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from studies.errors import ArtifactError, ArtifactsAwayError
from studies.files.artifacts import (
    FEATURES,
    Artifacts,
    RenderFile,
    SheetKind,
    TrialFiles,
    attach_sheet,
    sheet_name,
    stored_name,
)
from studies.files.stores import Store, StoredFile
from studies.records.kept_renders import render_name

DATABASE = "sqlite:///study.db"
pixels = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).map(lambda shape: (*shape, 3)))
scorer_names = st.text("abc file/.-_ é漢", min_size=1, max_size=10) | st.sampled_from(["file", "allow_pickle", "a.npy"])
SOME = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(width=32))


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts.beside(DATABASE, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def bucket(objects: ObjectStore) -> Artifacts:
    return Artifacts.beside(DATABASE, f"s3://{BUCKET}/a/b")


class TestEveryStore:
    """What every store does; run over each kind."""

    @pytest.fixture(params=["folder", "bucket"])
    def artifacts(self, request: pytest.FixtureRequest) -> Artifacts:
        found: Artifacts = request.getfixturevalue(request.param)
        return found

    @pytest.fixture
    def store(self, artifacts: Artifacts) -> Store:
        return artifacts.store

    @pytest.fixture
    def files(self, artifacts: Artifacts) -> TrialFiles:
        return artifacts.of_trial("0" * 32, 3, "abcdef0123456789")

    def test_a_file_comes_back_is_listed_replaced_and_removed(self, store: Store) -> None:
        name = "studies/one/2-ab/x.bin"
        store.write(name, b"first")
        store.write(name, b"and second")
        assert store.read(name) == b"and second"
        for prefix in ("studies/one/", "studies/one/2-", name):
            assert list(store.files(prefix)) == [StoredFile(name, len(b"and second"))]
        assert list(store.files("studies/one/2-abc")) == []
        store.remove(name)
        store.remove(name)
        assert list(store.files("studies/one/")) == []
        with pytest.raises(ArtifactNotFound):
            store.read(name)

    def test_prefixes_of_names_are_kept_apart(self, artifacts: Artifacts) -> None:
        for number, worker in ((1, "aa"), (1, "bb"), (11, "aa")):
            artifacts.of_trial("two", number, worker).save_features({"fid": np.zeros((1, 1))})
        artifacts.remove_others("two", 1, "bb")
        left = sorted(file.name for file in artifacts.store.files("studies/two/"))
        assert left == [f"studies/two/1-bb/{FEATURES}", f"studies/two/11-aa/{FEATURES}"]
        artifacts.of_trial("two", 1, "bb").remove()
        assert [file.name for file in artifacts.store.files("studies/two/")] == [f"studies/two/11-aa/{FEATURES}"]

    @given(pixels)
    @SOME
    def test_a_render_comes_back_to_the_bit(
        self, artifacts: Artifacts, files: TrialFiles, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    ) -> None:
        file = render_name(3, "prompt-08-seed-1")
        (name,) = files.save_renders([RenderFile(file=file, pixels=image.transpose(2, 0, 1))])
        assert name == f"studies/{'0' * 32}/3-abcdef012345/trial-3-prompt-08-seed-1.png"
        assert np.array_equal(np.asarray(artifacts.open_render(name)), image)

    @given(st.dictionaries(scorer_names, rows, min_size=1, max_size=3))
    @SOME
    def test_features_come_back_to_the_bit_whatever_a_scorer_is_called(
        self, files: TrialFiles, features: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
    ) -> None:
        files.save_features(features)
        back = files.load_features()
        assert list(back) == list(features)
        for name, values in features.items():
            assert back[name].dtype == values.dtype
            assert back[name].tobytes() == values.tobytes()

    def test_features_of_a_trial_without_any_are_empty(self, artifacts: Artifacts) -> None:
        assert artifacts.of_trial("three", 12345, "w").load_features() == {}

    def test_a_pickle_among_the_features_is_refused_and_never_run(self, artifacts: Artifacts, tmp_path: Path) -> None:
        evidence = tmp_path / "executed"

        class Touch:
            def __reduce__(self) -> tuple[object, tuple[object, ...]]:
                return (Path.touch, (evidence,))

        files = artifacts.of_trial("four", 0, "w")
        member, archive = io.BytesIO(), io.BytesIO()
        np.save(member, np.array([Touch()], dtype=object), allow_pickle=True)
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr("[fid].npy", member.getvalue())
        artifacts.store.write(files.name(FEATURES), archive.getvalue())
        with pytest.raises(ValueError, match="pickle"):
            files.load_features()
        assert not evidence.exists()

    def test_features_that_would_need_a_pickle_are_not_written(self, artifacts: Artifacts) -> None:
        files = artifacts.of_trial("five", 0, "w")
        with pytest.raises(ValueError, match="Object arrays"):
            files.save_features({"fid": np.array([object()])})
        assert files.files() == frozenset()

    def test_a_contact_sheet_is_an_artifact_of_its_trial(
        self, artifacts: Artifacts, files: TrialFiles, tmp_path: Path
    ) -> None:
        study = optuna.create_study()
        trial = study.ask()
        sheet = Image.new("RGB", (30, 20), (10, 200, 30))
        artifact = files.save_sheet(sheet)
        assert get_all_artifact_meta(trial, storage=study._storage) == []  # stored first, known to Optuna afterwards
        attach_sheet(trial, artifact)
        attach_sheet(trial, artifact)
        (meta,) = get_all_artifact_meta(trial, storage=study._storage)
        assert (meta.artifact_id, meta.filename, meta.mimetype) == (artifact, "trial 0.jpg", "image/jpeg")
        got = tmp_path / "got.jpg"
        download_artifact(artifact_store=artifacts.for_optuna, artifact_id=artifact, file_path=str(got))
        with Image.open(got) as stored:
            assert stored.format == "JPEG"  # to look at
            difference = np.asarray(stored, dtype=int) - np.asarray(sheet, dtype=int)
        assert np.abs(difference).max() <= 4  # of 255 grey levels

    def test_what_people_upload_lies_apart_and_can_be_removed(self, artifacts: Artifacts) -> None:
        artifact = "12345678-1234-4321-8765-0123456789ab"
        artifacts.for_optuna.write(artifact, io.BytesIO(b"a note"))
        assert artifacts.store.read(f"uploads/{artifact}") == b"a note"
        with artifacts.for_optuna.open_reader(artifact) as reader:
            assert reader.read() == b"a note"
        artifacts.for_optuna.remove(artifact)
        with pytest.raises(ArtifactNotFound):
            artifacts.for_optuna.open_reader(artifact)

    def test_a_picture_for_people_is_where_it_is_said_to_be(self, artifacts: Artifacts) -> None:
        where = artifacts.save_contact_sheet("cats", "ab" * 16, "best", Image.new("RGB", (4, 3)))
        assert where == f"{artifacts.location}/cats~abababab-best.png"
        assert Image.open(io.BytesIO(artifacts.store.read("cats~abababab-best.png"))).size == (4, 3)

    @pytest.mark.parametrize("other", ["x-final", "x-best", "X", "x", "x.png"])
    def test_no_other_study_has_a_picture_of_its_name(self, other: str) -> None:
        studies = (("x", "a" * 32), (other, "b" * 32))  # in one store, by one database or two
        names = {sheet_name(*study, shows).casefold() for study in studies for shows in get_args(SheetKind)}
        assert len(names) == 2 * len(get_args(SheetKind))
        assert not any(
            re.fullmatch(r"\w[\w .+-]*", name.removesuffix(".png")) for name in names
        )  # as studies are called

    def test_a_file_is_copied_between_trials(self, artifacts: Artifacts) -> None:
        source, target = artifacts.of_trial("six", 0, "w"), artifacts.of_trial("six", 1, "w")
        source.save_features({"fid": np.ones((2, 2))})
        assert target.copy(FEATURES, source) == target.name(FEATURES)
        assert target.load_features()["fid"].tolist() == [[1, 1], [1, 1]]
        with pytest.raises(ArtifactNotFound):
            target.copy("0000.png", source)


class TestFolder:
    @pytest.mark.parametrize("name", ["../out", "studies/../../out", "/tmp/out"])
    def test_no_name_leads_out_of_the_folder(self, name: str, tmp_path: Path) -> None:
        store = Artifacts.beside(DATABASE, tmp_path / "files").store
        with pytest.raises(ArtifactError, match="is outside it"):
            store.write(name, b"x")
        with pytest.raises(ArtifactError, match="is outside it"):
            store.read(name)
        assert [path.name for path in tmp_path.iterdir()] == ["files"]

    def test_removing_leaves_no_empty_folders(self, tmp_path: Path) -> None:
        artifacts = Artifacts.beside(DATABASE, tmp_path)
        files = artifacts.of_trial("key", 0, "w")
        files.save_features({"fid": np.ones((2, 2))})
        files.remove()
        assert list((tmp_path / "studies").iterdir()) == []

    def test_a_folder_that_went_away_is_waited_for_and_never_made_anew(self, tmp_path: Path) -> None:
        folder = tmp_path / "share"
        files = Artifacts.beside(DATABASE, folder).of_trial("key", 0, "w")
        files.save_features({"fid": np.ones((2, 2))})
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()  # where a share was mounted
        for action in (files.load_features, files.files, lambda: files.save_features({"fid": np.ones((2, 2))})):
            with pytest.raises(ArtifactsAwayError, match=f"{folder} is missing"):
                action()
        assert list(folder.iterdir()) == []

    def test_a_file_that_does_not_fit_is_not_there_at_all(self, tmp_path: Path) -> None:
        """A real limit of the system, in a child as it holds for a whole process."""
        store = Artifacts.beside(DATABASE, tmp_path).store
        store.write("studies/key/x", b"before")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
                store.write("studies/key/x", bytes(5000))
            except ArtifactError as error:
                code = 0 if "File too large" in str(error) and "make room" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert store.read("studies/key/x") == b"before"
        assert [file.name for file in store.files("")] == ["studies/key/x"]


@pytest.mark.usefixtures("objects")
class TestBucket:
    def test_everything_is_below_the_prefix(self, bucket: Artifacts, objects: ObjectStore) -> None:
        bucket.store.write("studies/key/x", b"")
        assert "a/b/studies/key/x" in objects.names()
        assert all(name.startswith("a/b/") for name in objects.names())
        top = Artifacts.beside(DATABASE, f"s3://{BUCKET}")
        assert "a/b/studies/key/x" in [file.name for file in top.store.files("")]

    def test_a_store_that_is_away_is_told_as_such(self, bucket: Artifacts, objects: ObjectStore) -> None:
        bucket.store.write("studies/key/x", b"content")
        objects.stop()
        try:
            with pytest.raises(ArtifactsAwayError, match="s3://merges/a/b: Could not connect"):
                bucket.store.read("studies/key/x")
            with pytest.raises(ArtifactsAwayError):
                bucket.store.write("studies/key/y", b"content")
        finally:
            objects.start()
        assert bucket.store.read("studies/key/x") == b"content"
        assert "a/b/studies/key/y" not in objects.names()

    def test_a_bucket_that_is_not_there_is_named(self) -> None:
        with pytest.raises(ArtifactError, match="there is no bucket 'other'") as told:
            Artifacts.beside(DATABASE, "s3://other/x")
        assert not isinstance(told.value, ArtifactsAwayError)

    def test_without_credentials_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, "/nonexistent")
        with pytest.raises(ArtifactError, match="credentials"):
            Artifacts.beside(DATABASE, f"s3://{BUCKET}/x")

    def test_an_endpoint_that_is_no_url_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
        with pytest.raises(ArtifactError, match="nowhere"):
            Artifacts.beside(DATABASE, f"s3://{BUCKET}/x")


@pytest.mark.parametrize("place", ["s3://", "s3:///x", "s3://bucket//x", "s3://bucket/x?endpoint=y"])
def test_a_bucket_written_in_another_way_is_refused(place: str) -> None:
    with pytest.raises(ArtifactError, match=r"is written s3://bucket/prefix, got"):
        Artifacts.beside(DATABASE, place)


def test_a_secret_in_the_place_is_refused_and_not_repeated() -> None:
    with pytest.raises(ArtifactError, match="AWS_SECRET_ACCESS_KEY") as told:
        Artifacts.beside(DATABASE, "s3://key:hunter2@host/bucket")
    assert "hunter2" not in str(told.value)


def test_the_folder_stands_beside_the_sqlite_file(tmp_path: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{tmp_path}/merges.db")
    assert artifacts.location == str(tmp_path / "merges-artifacts")
    assert (tmp_path / "merges-artifacts").is_dir()


def test_a_server_has_its_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = Artifacts.beside("postgresql+psycopg://host/name")
    assert artifacts.location == str(tmp_path / "mergetune-artifacts")
    monkeypatch.chdir("/")  # it stays where it was
    assert Path(artifacts.location).is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=f"{tmp_path}/file/below cannot be created"):
        Artifacts.beside(DATABASE, tmp_path / "file" / "below")


def test_to_read_only_a_folder_that_is_not_there_has_nothing_and_is_not_made(tmp_path: Path) -> None:
    artifacts = Artifacts.existing(DATABASE, tmp_path / "gone")
    assert artifacts.of_trial("key", 0, "w").files() == frozenset()
    assert artifacts.of_trial("key", 0, "w").load_features() == {}
    assert not (tmp_path / "gone").exists()


@given(st.text("0123456789abcdefABCDEF-", min_size=1, max_size=60) | st.from_regex(r"[0-9a-f]{32}-[0-9]+-[0-9a-f]{12}"))
def test_no_artifact_id_that_the_dashboard_takes_leads_out_of_its_place(artifact: str) -> None:
    name = stored_name(artifact)
    assert name.startswith(("uploads/", "studies/"))
    assert ".." not in Path(name).parts


@pytest.mark.parametrize("odd", ["link to itself", "two links in a circle", "dangling link", "pipe", "linked pipe"])
def test_what_is_no_file_among_the_files_of_a_trial_is_left_out_and_stops_nobody(odd: str, tmp_path: Path) -> None:
    artifacts = Artifacts.beside(f"sqlite:///{tmp_path}/study.db")
    files = artifacts.of_trial("key", 0, "worker")
    files.store.write(files.name("0000.png"), b"picture")
    path = Path(artifacts.location) / files.name("features.npz")
    match odd:
        case "link to itself":
            path.symlink_to(path.name)
        case "two links in a circle":
            path.symlink_to("other")
            path.with_name("other").symlink_to(path.name)
        case "dangling link":
            path.symlink_to("nothing")
        case "pipe":
            os.mkfifo(path)
        case _:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
    assert files.files() == {"0000.png"}
    assert files.load_features() == {}, "as where none are stored"
    if odd == "pipe":
        with pytest.raises(ArtifactError, match="it is a pipe, not a file"):
            files.store.write(files.name("features.npz"), b"a file")
    else:
        files.store.write(files.name("features.npz"), b"a file again")
        assert "features.npz" in files.files()
