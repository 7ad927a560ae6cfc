"""The LoRAs of a suite: on top of every merge while it is rendered, parents included, and no part of it.

A study scores a merge as people will use it. Neither recipe nor export has them. LoRAs that are part of the merge stand
in the recipe instead (`loras` of a study), and have weights that are searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from basics.messages import nearest
from optimizer.errors import LoraError, PromptError
from optimizer.families.registry import model_family
from optimizer.merging.engine.plan import WeightedLoras
from optimizer.merging.files.change_guard import OpenedFiles
from optimizer.merging.files.layout import Component, live_views
from optimizer.merging.files.sources import TensorInfo
from optimizer.merging.lora.file import Lora
from optimizer.rendering.folders import require_lora_folder_at
from optimizer.rendering.prompts.named_loras import NamedLora
from optimizer.rendering.prompts.reading import PromptReader
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings
from studies.spec.suite_loras import lora_paths


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedLora:
    """A LoRA on top of the merge for one item."""

    path: Path
    unet: float  # strengths
    text: float


@dataclass(frozen=True, eq=False)
class SuiteLoras:
    """The LoRAs that suites use, opened."""

    loras: tuple[Lora, ...] = ()
    changed: tuple[frozenset[Component], ...] = ()  # the components that each one changes
    opened: OpenedFiles = field(default_factory=lambda: OpenedFiles({}), repr=False)

    @classmethod
    def open(
        cls, suites: Sequence[SuiteSettings], tensors: Mapping[str, TensorInfo], architecture: Architecture
    ) -> SuiteLoras:
        """Open every LoRA that suites use, each once.

        Args:
            tensors: of the merge.

        Raises:
            PromptError: a prompt cannot be read, or names a LoRA that is not there.
            CheckpointError: a file is no LoRA, or does not fit the merge.
        """
        paths = dict.fromkeys(used.path for suite in suites for used in _all_used(suite, architecture))
        loras = tuple(_opened(path) for path in paths)
        opened = OpenedFiles.now(_files(loras))
        changed = tuple(_components(lora, tensors, architecture) for lora in loras)
        return cls(loras=loras, changed=changed, opened=opened)

    def on(self, components: Sequence[Component], used: Sequence[UsedLora]) -> WeightedLoras:
        """Return (index, strength) of those LoRAs that change some of these components, all text encoders or the U-Net.

        Raises:
            LoraError: one was not opened.
        """
        indices = {lora.path: index for index, lora in enumerate(self.loras)}
        found = []
        for each in used:
            if each.path not in indices:
                raise LoraError(f"the LoRA {each.path} of the suite was not opened: open it with the models")
            index, strength = indices[each.path], each.unet if "unet" in components else each.text
            if strength and self.changed[index].intersection(components):
                found.append((index, strength))
        return tuple(found)

    @property
    def files(self) -> Mapping[str, tuple[Path, ...]]:
        """Description for messages -> the files of each LoRA."""
        return _files(self.loras)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the files, one line each."""
        return tuple(f"{lora.path.name}: {note}" for lora in self.loras for note in lora.notes)


NO_LORAS = SuiteLoras()


def used_by(
    suite: SuiteSettings, named: Sequence[NamedLora], names: Mapping[str, tuple[Path, ...]]
) -> tuple[UsedLora, ...]:
    """Return the LoRAs of an item: those of its suite, then those that its prompt names.

    Args:
        names: of the suite's folder, from `names_in`.

    Raises:
        PromptError: a name means no file, several, or one that the suite has already.
    """
    used = [
        UsedLora(path=lora.path, unet=unet, text=text)
        for lora, (unet, text) in zip(suite.loras, suite.lora_strengths, strict=True)
    ]
    for lora in named:
        path = _path_of(lora.name, suite.lora_folder, names)
        if any(path == each.path for each in used):
            raise PromptError(
                f"the LoRA {lora.name!r} is on top of a render twice ({path}): name the file in the prompt or under "
                "`loras` of the suite, and once"
            )
        used.append(UsedLora(path=path, unet=lora.unet, text=lora.text))
    return tuple(used)


def names_in(suite: SuiteSettings) -> Mapping[str, tuple[Path, ...]]:
    """Return the names of the LoRAs in a suite's folder -> the files of each; none without a folder.

    Raises:
        PromptError: it is no folder.
    """
    if suite.lora_folder is None:
        return {}
    require_lora_folder_at(suite.lora_folder)
    return lora_paths(suite.lora_folder)


def _path_of(name: str, folder: Path | None, names: Mapping[str, tuple[Path, ...]]) -> Path:
    """Return the file that a name means.

    Raises:
        PromptError: there is none, or there are several.
    """
    if folder is None:
        raise PromptError(
            f"the LoRA {name!r} is named in a prompt, and the suite names no folder of LoRAs: give `lora_folder: "
            "FOLDER` under `suite` to render with it, or take it out"
        )
    paths = names.get(name, ())
    if not paths:
        close = nearest(name, names)
        advice = f"did you mean {close[0]!r}?" if close else f"put {name}.safetensors there"
        raise PromptError(f"the LoRA {name!r} is not in {folder}: {advice}")
    if len(paths) > 1:
        places = " and ".join(str(path.relative_to(folder)) for path in paths)
        raise PromptError(f"the LoRA {name!r} is there {len(paths)} times ({places}): keep one of them")
    return paths[0]


def _all_used(suite: SuiteSettings, architecture: Architecture) -> Iterator[UsedLora]:
    """Yield the LoRAs of every item.

    Raises:
        PromptError: see `SuiteLoras.open`.
    """
    reader, names = PromptReader(suite, model_family(architecture)), names_in(suite)
    read = (reader.read(item.prompt, item.sampling.prompt_steps).loras for item in suite.items())
    yield from chain.from_iterable(used_by(suite, named, names) for named in dict.fromkeys(read))


def _files(loras: Sequence[Lora]) -> dict[str, tuple[Path, ...]]:
    files: dict[str, tuple[Path, ...]] = {}
    for lora in loras:  # two in different folders may have the same name
        description = f"the LoRA {lora.name} of the suite"
        files[description] = (*files.get(description, ()), *lora.files)
    return files


def _opened(path: Path) -> Lora:
    """Open a LoRA.

    Raises:
        LoraError: it cannot be used.
    """
    try:
        return Lora.open(path)
    except LoraError as error:
        raise LoraError(f"a LoRA of the suite: {error}") from error


def _components(lora: Lora, tensors: Mapping[str, TensorInfo], architecture: Architecture) -> frozenset[Component]:
    """Return the components that a LoRA changes.

    Raises:
        LoraError: it does not fit the tensors.
    """
    try:
        keys = lora.targets(tensors, architecture)
    except LoraError as error:
        raise LoraError(f"a LoRA of the suite does not fit: {error}") from error
    return frozenset(view.component for key in keys for view in live_views(key, architecture, len(tensors[key].shape)))
