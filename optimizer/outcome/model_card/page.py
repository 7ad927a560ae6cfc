"""The page of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from basics.messages import counted
from optimizer.merging.engine.export import Exported
from optimizer.outcome.model_card.block_line import block_line
from optimizer.outcome.model_card.contents import Content, agreed_licence
from optimizer.outcome.model_card.front_matter import front_matter
from optimizer.outcome.model_card.markdown import brief, code, link, picture, table
from optimizer.outcome.model_card.workflow import Workflow
from search_spaces.blocks import Architecture, place_label, places
from search_spaces.families.registry import family_of
from studies.recipe.recipe import Recipe, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example picture."""

    file: str  # its name beside the page
    prompt: str
    settings: str  # as A1111 writes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card tells."""

    name: str  # of the model: the file's without suffix
    architecture: str  # as `modelspec.architecture` has it
    file: Exported
    origin: str  # study and trial, for people
    recipe: Recipe
    contents: Sequence[Content]
    verdict: str  # Markdown
    examples: Sequence[Example]
    no_examples: str  # why there are none, or fewer, for people; empty where nothing is missing
    suite_loras: Sequence[str]  # file names of LoRAs on top of every picture, which the file does not have
    workflow: Workflow
    workflow_file: str  # its name beside the page
    usage_hint: str  # how other programs render it; empty where they load it as it is


def page(card: Card) -> str:
    """Return the page in Markdown, with the front matter of a hub."""
    matter = front_matter(
        card.name, card.architecture, card.contents, {each.file: each.prompt for each in card.examples}
    )
    sections = (
        (f"# {brief(card.name)}", _summary(card)),
        ("## How to use it", _usage(card)),
        ("## Example pictures", "\n\n".join(_examples(card))),
        ("## How much better it is", card.verdict),
        ("## What went in", "\n\n".join(_contents(card.contents))),
        ("## Ratios", "\n\n".join(_ratios(card.recipe))),
        ("## Block weights for A1111", "\n\n".join(_block_weights(card.recipe))),
        ("## The same merge in ComfyUI", "\n\n".join(_comfyui(card))),
    )
    return matter + "".join(f"\n{head}\n\n{body}\n" for head, body in sections)


def _summary(card: Card) -> str:
    title = family_of(Architecture(card.recipe.architecture)).title
    parents = " and ".join(f"{parent.letter} ({brief(parent.name)})" for parent in card.recipe.parents)
    dtype = card.recipe.dtype or "the dtypes of parent A"
    lines = [
        f"A merge of {parents} for {title}, made with mergetune: {brief(card.origin)}.",
        table(
            ("", ""),
            (
                ("file", brief(card.file.path.name)),
                ("size", f"{card.file.bytes / 1e6:,.1f} MB, {dtype}"),
                ("AutoV2", card.file.sha256[:10]),
                ("sha256", card.file.sha256),
            ),
        ),
    ]
    return "\n\n".join(lines)


def _usage(card: Card) -> str:
    lines = [card.usage_hint or "A1111, Forge, ComfyUI and diffusers load the file as it is."]
    if card.suite_loras:
        names = ", ".join(map(brief, card.suite_loras))
        lines.append(
            f"The pictures and all scores were made with LoRAs on top, which are not in the file: {names}. To get such "
            "pictures, load them beside it."
        )
    return "\n\n".join(lines)


def _examples(card: Card) -> Iterator[str]:
    for example in card.examples:
        yield picture(example.file, example.prompt)
        yield code(example.settings)
    if card.no_examples:
        yield f"{card.no_examples}."


def _contents(contents: Sequence[Content]) -> Iterator[str]:
    rows = [
        (
            each.role,
            brief(each.file),
            each.sha256,
            *(brief(text or "not given") for text in (each.title, each.author, each.licence)),
        )
        for each in contents
    ]
    yield table(("", "file", "sha256", "title", "author", "licence"), rows)
    licence = agreed_licence(contents)
    if licence is not None:
        yield f"All files name the same licence: {brief(licence)}."
    elif any(each.licence is not None for each in contents):
        yield "The files do not agree on a licence, so none is claimed for the merge: the licence of each applies."
    else:
        yield "No file names its licence, so none is claimed for the merge: look for it where each file comes from."


def _ratios(recipe: Recipe) -> Iterator[str]:
    if not recipe.steps:
        yield "Nothing is merged: the file is parent A."
    for number, step in enumerate(recipe.steps, start=1):
        operation = step.operation
        clip = ", clipped" if operation.clip else ""
        seed = f", seed {operation.seed}" if operation.info.random else ""
        name = f"Step {number}" if len(recipe.steps) > 1 else "The merge"
        inputs, formula = ", ".join(operation.inputs), brief(operation.info.formula)
        yield f"{name} is `{operation.method}` of {inputs}{clip}{seed}: {formula}."
        if operation.slots:
            yield _numbers(step, Architecture(recipe.architecture))
    for lora in recipe.loras:
        weights = sorted(set(lora.by_place.values()))
        told = f"{weights[0]:g}" if len(weights) == 1 else f"{weights[0]:g} to {weights[-1]:g}, by block"
        yield f"The LoRA {brief(lora.name)} is added with weight {told}."
    if recipe.vae is not None:
        yield f"The VAE is that of {brief(recipe.vae.name)}."
    yield "The exact recipe is in the file's header, `mergetune.recipe`: `mergetune merge` makes the file again."


def _numbers(step: Step, architecture: Architecture) -> str:
    """Return the numbers of a step by place, or in one sentence where all places have the same."""
    names = [slot.name for slot in step.operation.slots]
    by_place = step.by_place
    if len(set(by_place.values())) == 1:
        (numbers,) = set(by_place.values())
        return f"{', '.join(f'{name} {number:g}' for name, number in zip(names, numbers, strict=True))} everywhere."
    rows = [(place_label(place, architecture), *map("{:g}".format, by_place[place])) for place in places(architecture)]
    return table(("", *map(brief, names)), rows)


def _block_weights(recipe: Recipe) -> Iterator[str]:
    found = block_line(recipe)
    if found.line is None:
        yield f"There is no line of block weights for this merge: {brief(found.reason)}."
        return
    count = counted(len(found.line.split(",")), "number")
    yield f"{count} as supermerger takes them, `Weight sum` with MBW alpha, which is the weight of B:"
    yield code(found.line)
    yield (
        "supermerger merges the VAE by the first number, too: bake in the VAE of A to get this one. Its versions "
        "differ in which number applies to `time_embed` and `label_emb`; here it is that of IN00."
    )


def _comfyui(card: Card) -> Iterator[str]:
    if card.workflow.text is None:
        yield f"There is no workflow of core nodes for this merge: {'; '.join(map(brief, card.workflow.gaps))}."
        return
    yield (
        f"{link(card.workflow_file)} makes it again with core nodes, from the files above. "
        "Ratios of ComfyUI are those of the first model, so they are 1 minus the ones here. ComfyUI saves the dtype in "
        "which it has loaded the files."
    )
    if card.workflow.gaps:
        yield "It is not the whole merge:"
        yield "\n".join(f"- {brief(gap)}" for gap in card.workflow.gaps)
