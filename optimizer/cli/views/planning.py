"""What a study is going to do and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch

from basics.messages import counted
from optimizer.cli.common import console, escaped, print_notes
from optimizer.cli.views.search_space import space_in_words
from optimizer.cli.views.tables import FoldingTable
from optimizer.merging.files.checkpoint import letters, total_bytes
from optimizer.rendering.prediction import EPSILON
from optimizer.rendering.tiles import TILE, tiled_sizes
from optimizer.runtime.plan import Plan
from optimizer.runtime.residence import Residence
from optimizer.runtime.timing import unet_passes
from studies.spec.hires import HiresSettings
from studies.spec.presets import PRESETS, PresetName
from studies.spec.search import RacingSettings
from studies.spec.suite import SuiteItem, SuiteSettings


def print_plan(plan: Plan, device: torch.device, residence: Residence | None = None) -> None:
    """Print a plan as a table, then its notes.

    Args:
        residence: what would stay on the device; None leaves it out.
    """
    spec, items = plan.spec, plan.spec.suite.items()
    table = FoldingTable(f"study {escaped(spec.study)}", show_header=False)
    for letter, checkpoint in zip(letters(len(plan.checkpoints)), plan.checkpoints, strict=True):
        size = checkpoint.size_bytes / 1e6
        table.add_row(
            f"parent {letter}", escaped(f"{checkpoint.path.name} ({checkpoint.architecture}, {size:,.0f} MB)")
        )
    method = ", then ".join(operation.method for operation in spec.operations)
    names = ", ".join(parameter.name for parameter in plan.space.parameters)
    coarse = ", by section at first" if plan.space.settings.begins_coarse else ""
    table.add_row("search", f"{method}, {counted(len(plan.space.parameters), 'number')}{coarse}: {escaped(names)}")
    for title, words in space_in_words(plan.space):
        table.add_row(title, escaped(words))
    sizes = ", ".join(sorted({f"{item.width}x{item.height}" for item in items}))
    table.add_row(
        "suite",
        f"{counted(len(items), 'image')} per trial, {sizes}, {sampling_in_words(items)}",
    )
    for title, loras in loras_in_words(plan):
        table.add_row(title, loras)
    if spec.suite.preset is not None:
        table.add_row("preset", preset_in_words(spec.suite, spec.suite.preset))
    if plan.prediction != EPSILON:
        table.add_row("prediction", plan.prediction.description)
    scorers = [info.report_name(len(spec.suite.looked_at_by(name))) for name, info in plan.infos.items()]
    table.add_row("scorers", escaped(", ".join(scorers)))
    table.add_row("objective", escaped(objective_in_words(plan)))
    table.add_row("sampler", f"{spec.sampler.name}, seed {spec.sampler.seed}, after the probes")
    if spec.racing is not None:
        table.add_row("racing", racing_in_words(spec.racing, len(items)))
    table.add_row("final", final_in_words(plan))
    table.add_row("device", str(device) if residence is None or device.type == "cpu" else f"{device}: {residence}")
    if spec.render.fp16_accumulation:
        table.add_row("sums", "of the U-Net in fp16: images and scores differ from those of a study without")
    if tiled := [f"{width}x{height}" for width, height in tiled_sizes(spec.suite, spec.render)]:
        table.add_row(
            "decoding", f"{', '.join(tiled)} in tiles of {TILE} pixels, so not the pixels of one decoded whole"
        )
    table.add_row("cost", cost(plan))
    console.print(table)
    print_notes(plan.notes)


def loras_in_words(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield title and description of the LoRAs of the merge, and of those on top of its renders."""
    if plan.ingredients.loras:
        names = ", ".join(lora.name for lora in plan.ingredients.loras)
        yield "LoRAs in it", escaped(f"{names}: part of the merge and of the export")
    if plan.suite_loras.loras:
        names = ", ".join(lora.name for lora in plan.suite_loras.loras)
        yield (
            "LoRAs on top",
            escaped(f"{names}: of every trial and parent while it is rendered, in no merge and no export"),
        )


def final_in_words(plan: Plan) -> str:
    """Describe which trials are rendered again in the final, and with what."""
    settings = plan.spec.final
    if settings.top == 0:
        return "none"
    other = "other prompts and seeds" if settings.prompts is not None else "other seeds"
    images = len(plan.spec.held_out.items())
    best = "trial" if settings.top == 1 else f"{settings.top} trials"
    return f"the best {best} and the parents again, {counted(images, 'image')} each with {other}"


def racing_in_words(settings: RacingSettings, items: int) -> str:
    """Describe after how many images a trial may be stopped."""
    checks = list(range(settings.batch, items, settings.batch))
    after = ", ".join(map(str, checks)) if len(checks) <= 4 else f"every {settings.batch}"
    losing = f"behind the best with confidence {settings.confidence:g}"
    return f"a trial {losing} is stopped after {after} of {items} images"


def objective_in_words(plan: Plan) -> str:
    """Describe the objective, without units: they may depend on reference images that are not read yet."""
    better = {name: "higher" if info.direction == "maximize" else "lower" for name, info in plan.infos.items()}
    if plan.spec.objectives is not None:
        return "Pareto front of " + ", ".join(f"{name} ({better[name]} is better)" for name in plan.spec.objectives)
    return " + ".join(f"{term.weight:g} x {name} ({better[name]} is better)" for name, term in plan.spec.terms.items())


def sampling_in_words(items: Iterable[SuiteItem]) -> str:
    """Describe how items are sampled; where they differ, how many ways there are besides the first."""
    first, *others = dict.fromkeys(item.sampling for item in items)
    words = f"{counted(first.steps, 'step')} of {first.sampler}, {first.schedule}, CFG {first.cfg:g}"
    if first.cfg_rescale:
        words += f" rescaled by {first.cfg_rescale:g}"
    if first.pag.scale:
        words += f", PAG {first.pag.scale:g} in {', '.join(first.pag.layers)}"
    if first.hires.is_on:
        words += f", then {hires_in_words(first.hires)}"
    return f"{words} and {counted(len(others), 'other way')}" if others else words


def hires_in_words(hires: HiresSettings) -> str:
    """Describe a second pass."""
    return (
        f"{counted(hires.steps or 0, 'step')} at {hires.scale:g} times the size, denoise {hires.denoise:g}, "
        f"enlarged by {hires.upscaler}"
    )


def preset_in_words(suite: SuiteSettings, name: PresetName) -> str:
    """Describe what a suite has from its preset, and what its spec says instead."""
    values = {key: (getattr(suite, key), value) for key, value in asdict(PRESETS[name]).items()}
    kept = [f"{key} {_shown(value)}" for key, (own, value) in values.items() if own == value]
    others = [f"{key} {_shown(own)}" for key, (own, value) in values.items() if own != value]
    instead = f"; the spec says {', '.join(others)}" if others else ""
    return f"{name} sets {', '.join(kept) or 'nothing'}{instead}"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(plan: Plan) -> str:
    """Describe the images and U-Net passes of the whole budget, and the memory for the weights."""
    spec, items = plan.spec, plan.spec.suite.items()
    images, passes = len(items), sum(unet_passes(item.sampling, plan.prediction, spec.suite.program) for item in items)
    stored = sum(total_bytes(checkpoint.tensors.values()) for checkpoint in plan.checkpoints)
    live = 4 * sum(info.size for info in plan.checkpoints[0].tensors.values())
    budget = spec.budget
    may_end = any(each is not None for each in (budget.patience, budget.images, budget.minutes))
    fewer_trials = "at most " if may_end else ""
    fewer_images = "at most " if spec.racing is not None and not fewer_trials else ""
    return (
        f"{fewer_trials}{counted(spec.budget.trials, 'trial')}, "
        f"{fewer_images}{counted(spec.budget.trials * images, 'image')}, "
        f"{counted(spec.budget.trials * passes, 'U-Net pass', 'U-Net passes')}; "
        f"at most {(stored + live) / 1e9:.2f} GB for the weights"
    )
