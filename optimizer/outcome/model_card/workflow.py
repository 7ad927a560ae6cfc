"""A workflow for ComfyUI that makes a merge again with core nodes, as far as there are any for what it does.

ComfyUI's ratio is the share of the first model, so it is 1 minus ours. ComfyUI/comfy_extras/nodes_model_merging.py:

    ModelMergeSD1, ModelMergeSDXL, CLIPMergeSimple      ratio * first + (1 - ratio) * second, ratio from 0 to 1
    ModelMergeSubtract, CLIPMergeSubtract               multiplier * (first - second), multiplier from -10 to 10
    ModelMergeAdd, CLIPMergeAdd                         first + second

Each of the CLIP nodes has one number for all text encoders, and there is none that merges VAEs. They work in float32
and round once, as we do. CLIP's `logit_scale`, on which no image depends, stays as the first model has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from optimizer.errors import NoCoreNodeError
from optimizer.families.family import ComfyMerge
from optimizer.families.registry import model_family
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.plan import FOLDED
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.lora.file import Lora
from optimizer.outcome.model_card.comfy_graph import Graph, Output
from search_spaces.blocks import VAE, blocks, place_label, place_of, text_encoders
from studies.recipe.recipe import RESULT, LoraUse, Recipe, Step

MOST_MULTIPLIER: Final = 10.0
DIFFERENCE: Final = "add_difference"
HINT: Final = (
    "Each ratio is the share of the upper model, so it is 1 minus that of the recipe. The nodes show two digits of it, "
    "and round it once it is edited."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow, and what it leaves out of the merge."""

    text: str | None  # JSON; None where no core node merges the U-Nets so
    gaps: tuple[str, ...]  # what it does not do, one line each, for people


def comfy_workflow(recipe: Recipe, files: Ingredients, name: str) -> Workflow:
    """Return the workflow of a merge.

    Args:
        files: those that the recipe merges.
        name: of the file that the workflow writes.
    """
    try:
        return _Translation(recipe, files).workflow(name)
    except NoCoreNodeError as error:
        return Workflow(text=None, gaps=(str(error),))


@dataclass
class _Translation:
    """A recipe on its way into a graph."""

    recipe: Recipe
    files: Ingredients
    graph: Graph = field(default_factory=Graph)
    loaded: dict[str, tuple[Output, ...]] = field(default_factory=dict)  # parent -> its model, text encoders and VAE

    def workflow(self, name: str) -> Workflow:
        """Translate the recipe.

        Raises:
            NoCoreNodeError: no core node merges the U-Nets so.
        """
        self._refuse_parents()
        gaps: list[str] = []
        model = self._chain(lambda letter: self._loaded(letter)[0], self._merged_unets)
        clip = self._or_of_a(gaps, self._text_encoders, 1)
        model, clip = self._with_loras(model, clip)
        vae = self._or_of_a(gaps, self._vae, 2)
        self.graph.add("CheckpointSave", {"model": model, "clip": clip, "vae": vae}, [f"checkpoints/{name}"])
        self.graph.add("Note", values=["\n\n".join([HINT, *gaps])])
        return Workflow(text=self.graph.to_json(), gaps=tuple(gaps))

    def _or_of_a(self, gaps: list[str], translated: Callable[[], Output], slot: int) -> Output:
        """Return a part of the merge, or parent A's where no core node makes it; `gaps` then says so."""
        try:
            return translated()
        except NoCoreNodeError as error:
            gaps.append(f"{error}: in the workflow this part is parent A's")
            return self._loaded("A")[slot]

    def _loaded(self, letter: str) -> tuple[Output, ...]:
        if letter not in self.loaded:
            file = self._checkpoints[letter].path.name
            self.loaded[letter] = self.graph.add(
                "CheckpointLoaderSimple", values=[file], outputs=("MODEL", "CLIP", "VAE")
            )
        return self.loaded[letter]

    @property
    def _checkpoints(self) -> Mapping[str, Checkpoint]:
        letters = [parent.letter for parent in self.recipe.parents]
        return dict(zip(letters, self.files.parents.checkpoints, strict=True))

    def _refuse_parents(self) -> None:
        """Refuse parents that ComfyUI's nodes do not load, or merge in another way.

        Raises:
            NoCoreNodeError: there is one.
        """
        first = self.files.parents.first
        for letter, checkpoint in self._checkpoints.items():
            if checkpoint.path.is_dir():
                raise NoCoreNodeError(f"parent {letter} is a folder, and CheckpointLoaderSimple loads files")
            for key in first.tensors.keys() & checkpoint.tensors.keys():
                if not first.tensors[key].fits(checkpoint.tensors[key]):
                    raise NoCoreNodeError(
                        f"parents A and {letter} are of different kinds ({key} has another shape), which ComfyUI's "
                        "nodes do not merge as mergetune does"
                    )

    def _chain(self, parent: Callable[[str], Output], merged: Callable[[Step, Sequence[Output]], Output]) -> Output:
        """Return the last step's result.

        Args:
            parent: returns a parent's part by its letter.
            merged: returns a step's result of its inputs.
        """
        results: dict[str, Output] = {}
        for number, step in enumerate(self.recipe.steps, start=1):
            inputs = [results[name] if name in results else parent(name) for name in step.operation.inputs]
            results[f"{RESULT}{number}"] = merged(step, inputs)
        return results[f"{RESULT}{len(self.recipe.steps)}"] if self.recipe.steps else parent("A")

    # -------------------------------------------------------------------------------------- U-Nets

    def _merged_unets(self, step: Step, inputs: Sequence[Output]) -> Output:
        numbers = {block: step.by_place[block] for block in blocks(self.files.parents.architecture)}
        _require_core(step)
        if step.operation.method == DIFFERENCE:
            (difference,) = self.graph.add(
                "ModelMergeSubtract", {"model1": inputs[1], "model2": inputs[2]}, [1.0], ["MODEL"]
            )
            (whole,) = self.graph.add("ModelMergeAdd", {"model1": inputs[0], "model2": difference}, [], ["MODEL"])
            return self._by_block(whole, inputs[0], {block: ratio for block, (ratio,) in numbers.items()})
        merged = inputs[0]
        for index, other in enumerate(inputs[1:]):
            merged = self._by_block(merged, other, {block: _rest(each[index]) for block, each in numbers.items()})
        return merged

    def _by_block(self, first: Output, second: Output, shares: Mapping[str, float]) -> Output:
        """Return a mean of two U-Nets.

        Args:
            shares: of the first one, by block.
        """
        if set(shares.values()) == {1.0}:
            return first
        outside = next((block for block, share in shares.items() if not 0 <= share <= 1), None)
        if outside is not None:
            raise NoCoreNodeError(f"a ratio in {outside} is below 0 or above 1, which ComfyUI's nodes do not take")
        node = self._merge_node()
        values = [shares.get(self._place(name), 1.0) for name in node.inputs]
        (merged,) = self.graph.add(node.node, {"model1": first, "model2": second}, values, ["MODEL"])
        return merged

    def _merge_node(self) -> ComfyMerge:
        architecture = self.files.parents.architecture
        node = model_family(architecture).comfy_merge
        if node is None:
            raise NoCoreNodeError(f"ComfyUI has no core node that merges {architecture} by blocks")
        return node

    def _place(self, name: str) -> str:
        """Return the block of the keys to which an input of the merge node applies."""
        architecture = self.files.parents.architecture
        return place_of(f"{model_family(architecture).keys.unet}{name.rstrip('.')}.", architecture)

    # -------------------------------------------------------------------------------------- text encoders and VAE

    def _text_encoders(self) -> Output:
        owners = {self._only_owner(encoder) for encoder in text_encoders(self.files.parents.architecture)}
        if len(owners) > 1:
            raise NoCoreNodeError("the text encoders come from different parents")
        (owner,) = owners
        if owner is not None:
            return self._loaded(owner)[1]
        for step in self.recipe.steps:  # before any node is added
            self._text_numbers(step)
        return self._chain(lambda letter: self._loaded(letter)[1], self._merged_texts)

    def _merged_texts(self, step: Step, inputs: Sequence[Output]) -> Output:
        numbers = self._text_numbers(step)
        if step.operation.method == DIFFERENCE:
            return self._with_difference(inputs, numbers[0])
        merged = inputs[0]
        for other, ratio in zip(inputs[1:], numbers, strict=True):
            if ratio:
                (merged,) = self.graph.add(
                    "CLIPMergeSimple", {"clip1": merged, "clip2": other}, [_rest(ratio)], ["CLIP"]
                )
        return merged

    def _with_difference(self, inputs: Sequence[Output], ratio: float) -> Output:
        """Return text encoders with `ratio` times the difference of two others."""
        if not ratio:
            return inputs[0]
        (difference,) = self.graph.add("CLIPMergeSubtract", {"clip1": inputs[1], "clip2": inputs[2]}, [ratio], ["CLIP"])
        (whole,) = self.graph.add("CLIPMergeAdd", {"clip1": inputs[0], "clip2": difference}, [], ["CLIP"])
        return whole

    def _text_numbers(self, step: Step) -> tuple[float, ...]:
        """Return the numbers that a step has for all text encoders.

        Raises:
            NoCoreNodeError: they differ, or the nodes do not take them.
        """
        _require_core(step)
        architecture = self.files.parents.architecture
        by_name = {place_label(each, architecture): step.by_place[each] for each in text_encoders(architecture)}
        numbers = _common(step, by_name)
        low, high = (-MOST_MULTIPLIER, MOST_MULTIPLIER) if step.operation.method == DIFFERENCE else (0.0, 1.0)
        if not all(low <= number <= high for number in numbers):
            raise NoCoreNodeError(f"a ratio of the text encoders is not between {low:g} and {high:g}")
        return numbers

    def _vae(self) -> Output:
        if self.recipe.vae is not None and self.files.vae is not None:
            if self.files.vae.path.is_dir():
                raise NoCoreNodeError("the baked VAE is a folder, and VAELoader loads files")
            return self.graph.add("VAELoader", values=[self.files.vae.path.name], outputs=("VAE",))[0]
        owner = self._only_owner(VAE)
        return self._loaded(owner)[2] if owner is not None else self._chain(lambda x: self._loaded(x)[2], _merged_vaes)

    def _only_owner(self, component: str) -> str | None:
        """Return the parent whose component is taken as it is, because another parent has none; None if all have it.

        Raises:
            NoCoreNodeError: nobody has it.
        """
        owners = [letter for letter, each in self._checkpoints.items() if component in each.components]
        if not owners:
            raise NoCoreNodeError(f"no parent has a {component}")
        return None if len(owners) == len(self._checkpoints) else owners[0]

    # -------------------------------------------------------------------------------------- LoRAs

    def _with_loras(self, model: Output, clip: Output) -> tuple[Output, Output]:
        """Return a model and its text encoders with the recipe's LoRAs."""
        for use, lora in zip(self.recipe.loras, self.files.loras, strict=bool(self.recipe.loras)):
            strengths = tuple(self._lora_strengths(use, lora))
            if any(strengths):
                model, clip = self.graph.add(
                    "LoraLoader", {"model": model, "clip": clip}, [lora.path.name, *strengths], ["MODEL", "CLIP"]
                )
        return model, clip

    def _lora_strengths(self, use: LoraUse, lora: Lora) -> Iterator[float]:
        """Yield the strength of a LoRA for the U-Net, and that for the text encoders.

        Raises:
            NoCoreNodeError: one of the two has several, or the LoRA is a folder's.
        """
        architecture = self.files.parents.architecture
        changed = set(lora.places(self.files.parents.tensors, architecture))
        for what, places in (("blocks", blocks(architecture)), ("text encoders", text_encoders(architecture))):
            weights = {use.by_place[place] for place in places if place in changed}
            if len(weights) > 1:
                raise NoCoreNodeError(
                    f"the LoRA {use.name} has {len(weights)} weights for different {what}, and LoraLoader takes one"
                )
            yield weights.pop() if weights else 0.0


def _require_core(step: Step) -> None:
    """Refuse a step that no core node does.

    Raises:
        NoCoreNodeError: it is one.
    """
    operation = step.operation
    if operation.method not in {*FOLDED, DIFFERENCE}:
        raise NoCoreNodeError(f"no core node of ComfyUI merges by {operation.method}")
    if operation.clip:
        raise NoCoreNodeError(f"no core node of ComfyUI clips the result, as `clip` of {operation.method} does")


def _common(step: Step, numbers: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """Return the numbers that all text encoders have.

    Raises:
        NoCoreNodeError: they differ.
    """
    different = set(numbers.values())
    if len(different) > 1:
        told = " and ".join(f"{', '.join(f'{each:g}' for each in own)} for {name}" for name, own in numbers.items())
        raise NoCoreNodeError(
            f"{step.operation.method} has {told}, and ComfyUI's nodes take one number for all text encoders"
        )
    return different.pop()


def _merged_vaes(step: Step, inputs: Sequence[Output]) -> Output:
    """Return the VAE that a step takes over whole.

    Raises:
        NoCoreNodeError: it merges VAEs.
    """
    _require_core(step)
    result = inputs[0]
    numbers = step.by_place[VAE]
    if step.operation.method == DIFFERENCE and any(numbers):
        raise NoCoreNodeError("no core node of ComfyUI merges VAEs")
    for other, ratio in zip(inputs[1:], numbers, strict=False):  # a difference has one number for two inputs
        if ratio not in {0.0, 1.0}:
            raise NoCoreNodeError("no core node of ComfyUI merges VAEs")
        result = other if ratio else result
    return result


def _rest(ratio: float) -> float:
    """Return 1 - ratio without the digits that binary numbers would add: 0.3 for 0.7."""
    return float(1 - Decimal(repr(ratio)))
