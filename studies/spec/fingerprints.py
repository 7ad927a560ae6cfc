"""What may not change after a study has begun: its spec except the budget, and the files that it reads.

Parents are not checked here: their hashes are stored with the study.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from basics.files import sha256_of
from basics.names import plain, with_plain_keys
from search_spaces.blocks import Architecture
from search_spaces.errors import SpaceError
from studies.errors import StudyChangedError
from studies.recipe.lora_files import files_of_lora
from studies.spec.embedding_files import fingerprint_of
from studies.spec.scoring import ScorerEntry
from studies.spec.study import StudySpec
from studies.spec.suite_loras import fingerprint_of_loras

THE_VAE = "the VAE"  # its key among the fingerprints
THE_EMBEDDINGS = "the embeddings that the prompts name"  # as well
THE_NAMED_LORAS = "the LoRAs that the prompts name"
NOT_COMPARED = frozenset({"study", "budget", "method", "steps"})  # the last two are compared as operations
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".json"})  # what a diffusers folder is made of
NOTHING = hashlib.sha256().hexdigest()  # of no file at all
_IS_OF_SUITE = re.compile(r"LoRA \d+ of the suite")

Hash = Callable[[Path], str]


def fingerprints(spec: StudySpec) -> dict[str, str]:
    """Return description -> sha256 of the scorers' files, the LoRAs, the VAE, and what the suite reads.

    Files that do not exist yet are left out.
    """
    digests = scorer_fingerprints(spec)
    digests |= {title_of_lora(name): lora_fingerprint(lora.path) for name, lora in spec.loras.items()}
    if spec.vae is not None:
        digests[THE_VAE] = vae_fingerprint(spec.vae)
    return digests | suite_fingerprints(spec)


def suite_fingerprints(spec: StudySpec, hashed: Hash = sha256_of) -> dict[str, str]:
    """Return description -> sha256 of the files beside the merge that shape a study's renders: embeddings and LoRAs.

    Args:
        hashed: returns the sha256 of a file.
    """
    digests = {}
    if spec.suite.embeddings is not None:
        digests[THE_EMBEDDINGS] = embeddings_fingerprint(spec, spec.suite.embeddings, hashed)
    if spec.suite.lora_folder is not None:
        digests[THE_NAMED_LORAS] = named_loras_fingerprint(spec, spec.suite.lora_folder, hashed)
    for number, lora in enumerate(spec.suite.loras, start=1):
        digests[title_of_suite_lora(number)] = lora_fingerprint(lora.path, hashed)
    return digests


def those_of_suite(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Return what of a study's fingerprints `suite_fingerprints` gives."""
    return {
        what: digest
        for what, digest in fingerprints.items()
        if what in {THE_EMBEDDINGS, THE_NAMED_LORAS} or _IS_OF_SUITE.fullmatch(what)
    }


def title_of_suite_lora(number: int) -> str:
    """Return the description of a LoRA of the suite, counted from 1, which is its key among the fingerprints."""
    return f"LoRA {number} of the suite"


def named_loras_fingerprint(spec: StudySpec, folder: Path, hashed: Hash = sha256_of) -> str:
    """Return one sha256 of the LoRAs in a folder that a study's prompts name.

    Args:
        hashed: returns the sha256 of a file.
    """
    return fingerprint_of_loras(folder, (spec.suite, spec.held_out), hashed)


def embeddings_fingerprint(spec: StudySpec, folder: Path, hashed: Hash = sha256_of) -> str:
    """Return one sha256 of the embeddings in a folder whose names occur in a study's prompts.

    Args:
        hashed: returns the sha256 of a file.
    """
    return fingerprint_of(folder, (spec.suite, spec.held_out), hashed)


def title_of_lora(name: str) -> str:
    """Return the description of a LoRA, which is its key among the fingerprints."""
    return f"the LoRA {name!r}"


def lora_fingerprint(path: Path, hashed: Hash = sha256_of) -> str:
    """Return the sha256 of a LoRA's content, with that of the configuration beside it.

    Args:
        hashed: returns the sha256 of a file.
    """
    return _digest(files_of_lora(path), hashed)


def vae_fingerprint(path: Path, hashed: Hash = sha256_of) -> str:
    """Return the sha256 of the content of a VAE, which may be a diffusers folder.

    Args:
        hashed: returns the sha256 of a file.
    """
    if not path.is_dir():
        return _digest([path], hashed)
    return _digest(sorted(file for file in path.rglob("*") if file.suffix.lower() in MODEL_SUFFIXES), hashed)


def scorer_fingerprints(spec: StudySpec) -> dict[str, str]:
    """Return description -> sha256 of the files that the options of each scorer name."""
    return dict(scorer_fingerprint(name, entry) for name, entry in spec.scorers.items())


def scorer_fingerprint(name: str, entry: ScorerEntry) -> tuple[str, str]:
    """Return (description, sha256) of the files that a scorer's options name."""
    files = (file for path in named_paths(entry.options) for file in files_at(path))
    return files_of_scorer(name), _digest(files, sha256_of)


def files_of_scorer(name: str) -> str:
    """Return the description of a scorer's files, which is their key among the fingerprints."""
    return f"the weights or reference images of scorer {name!r}"


def refuse_changed_files(stored: Mapping[str, str], spec: StudySpec) -> None:
    """Refuse to go on with files that have changed since the study began.

    Raises:
        StudyChangedError: a file has changed.
    """
    for what, digest in fingerprints(spec).items():
        if what in stored and stored[what] != digest and not _is_unknown(what, stored[what]):
            raise StudyChangedError(
                f"{what}: not the file the study began with, so scores could not be compared; put the old one back, "
                "name the folder that the old one is in with --models FOLDER, or start a new study"
            )


def _is_unknown(what: str, digest: str) -> bool:
    """Return whether nothing was read for a fingerprint: that of a VAE's folder once left its files out."""
    return what == THE_VAE and digest == NOTHING


def refuse_changed_spec(stored: StudySpec, spec: StudySpec) -> None:
    """Refuse a spec file that has changed since the study began, apart from its budget.

    Raises:
        StudyChangedError: it has changed.
    """
    stored, spec = _with_plain_names(stored).as_asked, _as_read_then(stored, spec).as_asked
    titles = {name: name for name in StudySpec.model_fields if name not in NOT_COMPARED}
    titles |= {"operations": "method` or `steps"}
    changed = [title for name, title in titles.items() if getattr(stored, name) != getattr(spec, name)]
    if "objective" in changed and _same_objective(stored, spec):
        changed.remove("objective")
    if "space" in changed and _same_space(stored, spec):
        changed.remove("space")
    if changed:
        raise StudyChangedError(
            f"`{'`, `'.join(changed)}` of the spec changed since the study began, and only `budget` may change: undo "
            "the change, start a new study, or resume this one by its name"
        )


def _as_read_then(stored: StudySpec, spec: StudySpec) -> StudySpec:
    """Return a spec file's spec with what it meant, where it names no other, when the stored study began.

    Prompts were plain before they had a syntax, and random methods drew other numbers.
    """
    if "draws" not in spec.model_fields_set:
        spec = spec.model_copy(update={"draws": stored.draws})
    if stored.suite.syntax != "plain" or "syntax" in spec.suite.model_fields_set:
        return spec
    suite = spec.suite.model_copy(update={"syntax": "plain", "emphasis": None})
    return spec.model_copy(update={"suite": suite})


def _with_plain_names(spec: StudySpec) -> StudySpec:
    """Return a stored spec with its names spelt as those of a file are; older ones may have been stored otherwise."""
    text = spec.to_json()
    if text == plain(text):
        return spec
    data = with_plain_keys(json.loads(text))
    return StudySpec.from_json(
        json.dumps(data | {"objectives": data["objectives"] and [*map(plain, data["objectives"])]})
    )


def _same_objective(stored: StudySpec, spec: StudySpec) -> bool:
    """Return whether the objectives differ only in units that the file leaves out; a stored spec has them all."""
    before, now = stored.terms, spec.terms
    return before.keys() == now.keys() and all(
        term.weight == before[name].weight and term.unit in {None, before[name].unit} for name, term in now.items()
    )


def _same_space(stored: StudySpec, spec: StudySpec) -> bool:
    """Return whether the file's space, once resolved, is the stored one: presets spelt out, LoRAs' weights included."""
    for architecture in Architecture:
        with suppress(SpaceError):  # it may name blocks of another architecture
            if spec.search_space(architecture).settings == stored.space:
                return True
    return False


def _digest(files: Iterable[Path], hashed: Hash) -> str:
    """Return the sha256 of the digests of those files that exist, in their order."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(bytes.fromhex(hashed(file)))
    return digest.hexdigest()


def named_paths(options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the absolute paths among a scorer's options in a fixed order; for `config_dir`, the model's file in it."""
    for name, value in sorted(options.items()):
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, Mapping):
                yield from named_paths(each)
            elif isinstance(each, str) and Path(each).is_absolute():
                yield Path(each, f"{options.get('model')}.json") if name == "config_dir" else Path(each)


def with_paths(options: Mapping[str, Any], places: Mapping[Path, Path]) -> dict[str, Any]:
    """Return a scorer's options with other paths.

    Args:
        places: a path among `named_paths` -> the one to put in its place; others stay.
    """

    def placed(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return with_paths(value, places)
        if isinstance(value, (list, tuple)):
            return [placed(name, each) for each in value]
        if not isinstance(value, str):
            return value
        if name == "config_dir":
            model = Path(value, f"{options.get('model')}.json")
            return str(places[model].parent) if model in places else value
        return str(places.get(Path(value), value))

    return {name: placed(name, value) for name, value in options.items()}


def files_at(path: Path) -> Iterator[Path]:
    """Yield the files that a scorer reads at a path: the file itself, or the images of a folder."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
