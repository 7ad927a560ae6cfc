"""What a study takes on this machine, in hours and gigabytes."""

from __future__ import annotations

from basics.messages import counted
from basics.quantities import duration, size
from optimizer.cli.common import console, escaped, print_notes
from optimizer.cli.views.tables import FoldingTable
from optimizer.runtime.plan import Plan
from optimizer.runtime.timing import BatchTiming, StudyTiming


def print_timing(plan: Plan, batch: BatchTiming, study: StudyTiming) -> None:
    """Print how long an image, a trial and the study take, and how much memory and disk they need."""
    items = len(plan.spec.suite.items())
    table = FoldingTable(f"measured here, on {counted(batch.images, 'image')}", show_header=False)
    table.add_row("an image", f"{duration(study.image_seconds)}, with its score")
    table.add_row("a trial", f"about {duration(study.trial_seconds)}: a merge in {duration(batch.merge_seconds)}, "
                  f"then {counted(items, 'image')}")  # fmt: skip
    words = f"about {duration(study.seconds)} for {counted(study.trials, 'trial')}"
    if study.final_seconds:
        words += f", {duration(study.final_seconds)} of it for the final"
    if plan.spec.racing is not None or plan.spec.budget.patience is not None:
        words += "; less where trials are stopped, or the study ends, early"
    table.add_row("the study", f"[bold]{words}[/]; with one worker, without loading")
    table.add_row("memory", memory_in_words(batch))
    stored = f"{size(study.stored_bytes)} for pictures, {size(study.export_bytes)} for the exported file"
    table.add_row("disk", stored)
    console.print(table)
    if batch.unscored:
        names = escaped(", ".join(batch.unscored))
        print_notes([f"{names} needs more images than a batch has, so its time is not in it"])


def memory_in_words(batch: BatchTiming) -> str:
    """Describe how much memory was held while the batch was rendered."""
    host = f"{size(batch.host_bytes)} of the machine's memory, files that are read through it included"
    return host if batch.device_bytes is None else f"{size(batch.device_bytes)} of the card's memory, and {host}"
