"""The names of a model card's files, beside the file that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimizer.merging.files.targets import refuse_target

MOST_EXAMPLES: Final = 4
SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFiles:
    """The names of a card's files."""

    page: Path
    workflow: Path
    pictures: tuple[Path, ...]  # as many as there may be

    @classmethod
    def beside(cls, target: Path) -> CardFiles:
        """Return the names beside an exported file."""
        name = model_name_of(target)
        return cls(
            page=target.with_name(f"{name}.md"),
            workflow=target.with_name(f"{name}-workflow.json"),
            pictures=tuple(target.with_name(f"{name}-{number}.png") for number in range(1, MOST_EXAMPLES + 1)),
        )

    def refuse(self, *, overwrite: bool) -> None:
        """Refuse names to which nothing can or must be written.

        Raises:
            ExportError: see `refuse_target`.
        """
        for path in (self.page, self.workflow, *self.pictures):
            refuse_target(path, overwrite=overwrite)


def model_name_of(target: Path) -> str:
    """Return the name of the model in a file."""
    return target.name[: -len(SUFFIX)] if target.suffix.lower() == SUFFIX else target.name
