"""References: renders of the suite by the models that scorers compare with, each rendered once.

A parent is rendered by the study itself, as the trial of that parent alone; another checkpoint before the study begins
(optimizer/runtime/reference_renders.py). Every trial is compared with the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from scorers.protocol import SuiteImages, is_parent_letter
from studies.recipe.recipe import Recipe
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteItem, SuiteSettings

LoadRenders = Callable[[SuiteSettings], Sequence[Tensor]]  # a suite -> its images in item order, uint8 [3, h, w]


def compared_parents(spec: StudySpec) -> tuple[str, ...]:
    """Return the letters of the parents that a study's scorers compare with, each once."""
    return tuple(to for to in _compared(spec) if is_parent_letter(to))


def compared_files(spec: StudySpec) -> tuple[str, ...]:
    """Return the paths of the other checkpoints that a study's scorers compare with, each once."""
    return tuple(to for to in _compared(spec) if not is_parent_letter(to))


def _compared(spec: StudySpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(to for models in spec.references.values() for to in models))


class References:
    """The reference images of one suite, by model: a parent's letter, or the path of a checkpoint.

    Args:
        recipes: parent's letter -> the recipe of that parent alone, for the parents that scorers compare with.
        files: path of another checkpoint -> how its images are loaded.
    """

    def __init__(
        self, suite: SuiteSettings, recipes: Mapping[str, Recipe], files: Mapping[str, LoadRenders] | None = None
    ) -> None:
        self.recipes, self._files = recipes, files or {}
        self._images = {to: dict(enumerate(load(suite))) for to, load in self._files.items()}
        self._suites: dict[tuple[str, tuple[int, ...]], SuiteImages] = {}

    def of_suite(self, suite: SuiteSettings) -> References:
        """Return the references to the same models for another suite."""
        return References(suite, self.recipes, self._files)

    def lacks(self, to: str, items: Iterable[SuiteItem]) -> bool:
        """Return whether an image of some items is not known yet."""
        known = self._images.get(to, {})
        return any(item.index not in known for item in items)

    def remember(self, to: str, images: Mapping[int, Tensor]) -> None:
        """Take a model's images of some items, by the items' index; those that are known stay."""
        self._images[to] = dict(images) | self._images.get(to, {})

    def images(self, items: Sequence[SuiteItem], words: Callable[[SuiteItem], str]) -> dict[str, SuiteImages]:
        """Return model -> its images of these items, for the models of which all of them are known.

        Args:
            words: of an item's prompt, those that scorers compare with its image.
        """
        known = [to for to in self._images if not self.lacks(to, items)]
        return {to: self._suite(to, items, words) for to in known}

    def _suite(self, to: str, items: Sequence[SuiteItem], words: Callable[[SuiteItem], str]) -> SuiteImages:
        key = to, tuple(item.index for item in items)
        if key not in self._suites:
            images = self._images[to]
            self._suites[key] = SuiteImages(
                images=tuple(images[item.index] for item in items), prompts=tuple(map(words, items))
            )
        return self._suites[key]
