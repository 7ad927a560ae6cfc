"""What `mergetune init` found, and the size that it chose."""

from __future__ import annotations

from basics.messages import counted
from basics.quantities import duration
from optimizer.cli.common import console, escaped, print_notes
from optimizer.cli.views.tables import FoldingTable
from optimizer.drafting.draft import Draft
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.machine import device_kind
from studies.recipe.recipe import LETTERS


def print_found(draft: Draft) -> None:
    """Print what the files are, how far the parents are apart, and what this machine has."""
    found = draft.found
    table = FoldingTable("found", show_header=False)
    for letter, path in zip(LETTERS, draft.parents, strict=False):
        table.add_row(f"parent {letter}", escaped(path.name))
    table.add_row("model", f"{found.architecture}, predicting {found.prediction.description}")
    for letter, parts in zip(LETTERS[1:], found.distances, strict=False):
        told = ", ".join(f"{part} {100 * distance.relative:.3g} %" for part, distance in parts.items())
        table.add_row(f"{letter} differs from A", f"{told} of A's weights")
    for name in draft.named_loras:
        table.add_row("LoRA", escaped(name))
    table.add_row("device", escaped(device_kind(choose_device("auto"))))
    table.add_row("scorers", ", ".join(scorer.kind for scorer in draft.scorers.chosen))
    console.print(table)
    print_notes((*found.notes, *draft.scorers.lacking))


def print_size(draft: Draft) -> None:
    """Print how large the study is, and about how long it takes."""
    sizing = draft.sizing
    if sizing.seconds is None:
        time = f"not measured: it ends after {draft.hours:g} h at the latest"
    else:
        time = f"about {duration(sizing.seconds)} here, with one worker"
    console.print(f"{counted(sizing.trials, 'trial')} of {counted(draft.images, 'image')}: {time}")
    if sizing.seconds is not None and sizing.seconds > 3600 * draft.hours:
        few = f"{draft.hours:g} h are too few for a search of these prompts here"
        print_notes([f"{few}: give more hours or fewer prompts, or take another machine"])
