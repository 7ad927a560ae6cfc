"""Where a stored study's files are on this machine, and which of them may be read at all.

A study names the paths of the machine that it began on, as they were then. Its files are the same wherever they lie:
those that have moved are found in model folders by their content. Where the folders bound what may be read, the study
database is not trusted: no file outside them is opened for it, wherever a path or a link leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from basics.names import as_on_disk, is_same
from optimizer.errors import CheckpointError, MissingFileError, OutsideFoldersError
from optimizer.merging.files.hash_lookup import Candidate
from optimizer.merging.files.names import model_name
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.moved_files import MovedFiles
from studies.recipe.lora_files import files_of_lora
from studies.records.values import ParentFile, StoredStudy
from studies.spec.embedding_files import files_named
from studies.spec.fingerprints import (
    NOTHING,
    THE_EMBEDDINGS,
    THE_NAMED_LORAS,
    THE_VAE,
    Hash,
    embeddings_fingerprint,
    files_of_scorer,
    lora_fingerprint,
    named_loras_fingerprint,
    named_paths,
    scorer_fingerprint,
    title_of_lora,
    title_of_suite_lora,
    vae_fingerprint,
)
from studies.spec.scoring import ScorerEntry
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings
from studies.spec.suite_loras import loras_named

GIVE_FOLDER = "put it back, or name the folder that it is in now with --models FOLDER"


class LocatedFiles(NamedTuple):
    """A stored study's spec and parents with the paths of this machine."""

    spec: StudySpec
    parents: tuple[ParentFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolders:
    """Folders in which checkpoints, LoRAs, VAEs, scorers' weights and reference images are looked for.

    Args:
        folders: if empty, every file must be where the study names it.
        digests: remembers what was hashed.
        also: further folders that may be read but are not searched, such as caches.
        exclusive: whether nothing outside these folders may be read, if there are any.
    """

    folders: tuple[Path, ...] = ()
    digests: DigestCache = field(default_factory=DigestCache, compare=False)
    also: tuple[Path, ...] = ()
    exclusive: bool = True

    def locate(
        self, study: StoredStudy, progress: Callable[[int], None] | None = None, *, scorers: bool = True
    ) -> LocatedFiles:
        """Find every file of a study on this machine.

        Args:
            progress: called with the bytes of each chunk that was read.
            scorers: whether the scorers' files are needed, too.

        Raises:
            CheckpointError: a parent is neither at its path nor in the folders.
            MissingFileError: nor is another file that the study reads.
            OutsideFoldersError: another file that the study reads is outside the folders, which are exclusive.
        """
        spec, moved = study.spec, self._search(progress)
        parents = tuple(self._parent(file, moved) for file in study.parents)
        known = study.fingerprints
        loras = {
            name: lora.model_copy(update={"path": self._model(title_of_lora(name), lora.path, known, moved)})
            for name, lora in spec.loras.items()
        }
        vae = None if spec.vae is None else self._model(THE_VAE, spec.vae, known, moved)
        entries = {
            name: self._scorer(name, entry, known, moved) if scorers else entry for name, entry in spec.scorers.items()
        }
        if self._are_bounds:
            _require_stored_recipes(spec)
        changes = {
            "parents": tuple(file.path for file in parents),
            "loras": loras,
            "vae": vae,
            "scorers": entries,
            "suite": self._suite(spec, known, moved),
        }
        return LocatedFiles(spec.model_copy(update=changes), parents)

    def locate_known(
        self, spec: StudySpec, other: StoredStudy, progress: Callable[[int], None] | None = None
    ) -> StudySpec:
        """Find those files of a new study's spec that have moved and that another study knows, by its hashes.

        Args:
            progress: called with the bytes of each chunk that was read.

        Raises:
            CheckpointError: a parent of both is neither at its path nor in the folders.
            MissingFileError: nor is another file of both.
        """
        moved, known, theirs = self._search(progress), other.fingerprints, other.spec
        loras = {
            name: lora.model_copy(update={"path": self._model(title_of_lora(name), lora.path, known, moved)})
            if name in theirs.loras and is_same(lora.path.name, theirs.loras[name].path.name)
            else lora
            for name, lora in spec.loras.items()
        }
        is_same_vae = spec.vae is not None and theirs.vae is not None and is_same(spec.vae.name, theirs.vae.name)
        changes = {
            "parents": tuple(self._known_parent(path, other, moved) for path in spec.parents),
            "loras": loras,
            "vae": self._model(THE_VAE, spec.vae, known, moved) if spec.vae is not None and is_same_vae else spec.vae,
            "scorers": {
                name: self._scorer(name, entry, known, moved) if entry == theirs.scorers.get(name) else entry
                for name, entry in spec.scorers.items()
            },
            "suite": self._suite(spec, known, moved) if spec.suite == theirs.suite else spec.suite,
        }
        return spec.model_copy(update=changes)

    def _known_parent(self, path: Path, other: StoredStudy, moved: MovedFiles) -> Path:
        """Find a parent that is not at its path, if another study has one of that path, or else of that name."""
        same = [file for file in other.parents if file.path == path]
        same = same or [file for file in other.parents if is_same(file.path.name, path.name)]
        return path if path.exists() or len(same) != 1 else self._parent(same[0], moved).path

    def _search(self, progress: Callable[[int], None] | None) -> MovedFiles:
        return MovedFiles(folders=self.folders, allows=self.allows, digests=self.digests, progress=progress)

    def allows(self, path: Path) -> bool:
        """Return whether a path, with every link followed, may be read."""
        if not self._are_bounds:
            return True
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in (*self.folders, *self.also))

    @property
    def _are_bounds(self) -> bool:
        return self.exclusive and bool(self.folders)

    def _parent(self, file: ParentFile, moved: MovedFiles) -> ParentFile:
        """Find a parent at its own path if that may be read, else a file of the same content in the folders."""
        path = as_on_disk(file.path) if self.allows(file.path) else file.path
        if path != file.path and path.exists():
            file = replace(file, path=path)
        own = Candidate.of(path) if self.allows(path) and path.exists() else None
        found = moved.parent(file, () if own is None else (own,)) if self.folders else None
        if found is not None:
            return found
        if own is not None:
            return file  # hash_parents refuses it if it has changed
        what = f"parent {file.letter} ({file.path.name}, sha256 {file.sha256[:10]}...)"
        if not self.folders:
            raise CheckpointError(f"{what} is not at {file.path}: {GIVE_FOLDER}, under any name")
        alike = [each.path for each in moved.models(file.path) if is_same(model_name(each.path), model_name(file.path))]
        raise CheckpointError(
            f"{what} is not in the model folders {_listed(self.folders)}: put it there under any name, or name its "
            f"folder with --models{_unlike(alike)}"
        )

    def _model(self, what: str, path: Path, known: Mapping[str, str], moved: MovedFiles) -> Path:
        """Find a LoRA or VAE at its own path if that may be read, else a file of the same content in the folders."""
        if self.allows(path):
            path = as_on_disk(path)
            outside = next((file for file in files_of_lora(path) if not self.allows(file)), None)
        else:
            outside = path
        own = outside is None and path.exists()
        if own and not self.folders:
            return path
        digest = known.get(what)
        fingerprint = None if digest == NOTHING else digest
        found = moved.model(path, fingerprint, _fingerprint_of(what)) if self.folders else None
        if found is not None:
            return found
        if own:
            return path  # refuse_changed_files refuses it
        alike = [each.path for each in moved.models(path) if is_same(model_name(each.path), model_name(path))]
        raise self._missing(what, outside or path, alike)

    def _scorer(self, name: str, entry: ScorerEntry, known: Mapping[str, str], moved: MovedFiles) -> ScorerEntry:
        """Find the files of a scorer at their own paths if those may be read, else such of the same content."""
        paths = tuple(named_paths(entry.options))
        allowed = all(map(self.allows, paths))
        fingerprint = known.get(files_of_scorer(name))
        if allowed and (fingerprint is None or (not self.folders and all(path.exists() for path in paths))):
            return entry
        if allowed and scorer_fingerprint(name, entry)[1] == fingerprint:  # an option may name what never was
            return entry
        options = moved.options(entry.options, fingerprint) if self.folders and fingerprint is not None else None
        if options is not None:
            return entry.model_copy(update={"options": options})
        lost = [path for path in paths if not self.allows(path)] or [path for path in paths if not path.exists()]
        if not lost:
            return entry  # refuse_changed_files refuses it
        raise self._missing(f"scorer {name!r}", lost[0], moved.alike(lost[0]))

    def _suite(self, spec: StudySpec, known: Mapping[str, str], moved: MovedFiles) -> SuiteSettings:
        """Find the embeddings and LoRAs of a study's suite."""
        suite = spec.suite
        embeddings = _Folder("embeddings", THE_EMBEDDINGS, suite.embeddings, embeddings_fingerprint, files_named)
        loras = _Folder("LoRAs", THE_NAMED_LORAS, suite.lora_folder, named_loras_fingerprint, _files_of_loras)
        titles = (title_of_suite_lora(number) for number, _ in enumerate(suite.loras, start=1))
        return suite.model_copy(
            update={
                "embeddings": self._folder(embeddings, spec, known, moved),
                "lora_folder": self._folder(loras, spec, known, moved),
                "loras": tuple(
                    lora.model_copy(update={"path": self._model(title, lora.path, known, moved)})
                    for title, lora in zip(titles, suite.loras, strict=True)
                ),
            }
        )

    def _folder(self, wanted: _Folder, spec: StudySpec, known: Mapping[str, str], moved: MovedFiles) -> Path | None:
        """Find what the prompts name in their own folder if it may be read, else in the others."""
        folder, fingerprint = wanted.path, known.get(wanted.title)
        if folder is None:
            return None
        readable = folder.is_dir() and self._allows_folder(wanted, spec, folder)
        if readable and (not self.folders or wanted.fingerprint(spec, folder, moved.hashed) == fingerprint):
            return folder
        for place in moved.places(folder.name):
            if (
                self._allows_folder(wanted, spec, place)
                and wanted.fingerprint(spec, place, moved.hashed) == fingerprint
            ):
                return place
        if readable:
            return folder  # refuse_changed_files refuses it
        raise self._missing(f"the folder of {wanted.what}", folder, ())

    def _allows_folder(self, wanted: _Folder, spec: StudySpec, folder: Path) -> bool:
        """Return whether a folder, and what the prompts name in it, may be read."""
        return self.allows(folder) and all(map(self.allows, wanted.named(folder, (spec.suite, spec.held_out))))

    def _missing(self, what: str, path: Path, alike: Sequence[Path]) -> MissingFileError | OutsideFoldersError:
        """Return the error for a file that is neither at its path, if that may be read, nor in the folders.

        Args:
            alike: files of its name in the folders, whose content is another.
        """
        if not self.folders:
            return MissingFileError(f"{what} of this study is {path}, which is not there: {GIVE_FOLDER}")
        where = ", outside the model folders" if not self.allows(path) else ", which is not there, nor in the folders"
        kind = MissingFileError if self.allows(path) else OutsideFoldersError
        return kind(
            f"{what} of this study is {path}{where} {_listed(self.folders)}: put it there, or name its folder with "
            f"--models{_unlike(alike)}"
        )


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of files that prompts name."""

    what: str
    title: str  # its key among the fingerprints
    path: Path | None  # None: the suite has none
    fingerprint: Callable[[StudySpec, Path, Hash], str]
    named: Callable[[Path, Iterable[SuiteSettings]], tuple[Path, ...]]  # the files that the prompts of suites name


def _files_of_loras(folder: Path, suites: Iterable[SuiteSettings]) -> tuple[Path, ...]:
    return tuple(file for path in loras_named(folder, suites) for file in files_of_lora(path))


def _fingerprint_of(what: str) -> Callable[[Path, Hash], str]:
    return vae_fingerprint if what == THE_VAE else lora_fingerprint


def _require_stored_recipes(spec: StudySpec) -> None:
    """Refuse a study that would read a recipe file.

    Raises:
        OutsideFoldersError: it would.
    """
    for probe in spec.probes.recipes:
        if probe.recipe is None:  # mergetune stores recipes when a study begins
            raise OutsideFoldersError(
                f"the recipe {probe.path} is not stored with this study, and recipe files are read only when a "
                "study begins: start a new study"
            )


def _unlike(alike: Sequence[Path]) -> str:
    """Return the end of a message that names files of the right name and the wrong content."""
    return f"; {_listed(alike)} has that name, but another content" if alike else ""


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
