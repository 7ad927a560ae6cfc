"""Random merges for property tests: a few tensors of every place, and recipes with all methods."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from checkpoints import small_shapes
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint, letters
from optimizer.merging.files.layout import Component
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import VAE, Architecture, place_of, places
from search_spaces.slots import Slot
from studies.recipe.methods import METHODS
from studies.recipe.recipe import (
    BakedVae,
    DtypeName,
    LoraUse,
    Operation,
    Parent,
    Recipe,
    Step,
    canonical_values,
)

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "text_encoder", "text_encoder_2")
FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"  # [out, in, 3, 3]
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
HALVES = (torch.float16,)
POSITIONS = {
    Architecture.SD15: "cond_stage_model.transformer.text_model.embeddings.position_ids",
    Architecture.SDXL: "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
}
ONLY_A = "model.diffusion_model.middle_block.0.only_in_a.weight"
ONLY_B = "model.diffusion_model.middle_block.0.only_in_b.weight"
EMA_COPY = "model_ema.diffusion_modelmiddle_block00weight"
ADDED = "model.diffusion_model.middle_block.0.added.weight"
MARKERS = {
    "v_pred": torch.zeros(0),
    "alphas_cumprod": torch.linspace(0, 1, 11),
    "edm_vpred.sigma_max": torch.tensor(80.0),
}
INPAINTING_CHANNELS = 9
FAMILY_MARK = {
    Architecture.SD15: "model.diffusion_model.input_blocks.1.1.proj_in.weight",
    Architecture.SDXL: "model.diffusion_model.label_emb.0.0.bias",
}

# Layers that a case's LoRAs change: module in the LoRA -> key in the checkpoint.
LAYERS: Mapping[Architecture, Mapping[str, str]] = {
    Architecture.SD15: {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "lora_unet_up_blocks_3_resnets_2_conv1": "model.diffusion_model.output_blocks.11.0.in_layers.2.weight",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (
            "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
        ),
    },
    Architecture.SDXL: {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        ),
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
        ),
        "lora_te2_text_model_encoder_layers_0_self_attn_v_proj": (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
        ),
    },
}


@cache
def some_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Return shapes of a few small tensors of every place, and of those that mark the family or that LoRAs change."""
    every = small_shapes(architecture.value)
    by_place: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for key, shape in every.items():
        if torch.Size(shape).numel() < 10_000 and not key.endswith("position_ids"):
            by_place.setdefault(place_of(key, architecture), []).append((key, shape))
    assert set(by_place) == set(places(architecture))
    chosen = {key: shape for tensors in by_place.values() for key, shape in (*tensors[:2], tensors[-1])}
    named = (FIRST_CONVOLUTION, FAMILY_MARK[architecture], *LAYERS[architecture].values())
    return chosen | {key: every[key] for key in named}


def parent_tensors(
    architecture: Architecture,
    index: int,
    seed: int,
    dtypes: Sequence[torch.dtype],
    *,
    channels: int = 4,
    without: str = "",
) -> dict[str, Tensor]:
    """Return one parent's tensors; each gets one of the dtypes at random."""
    generator, dealer = torch.Generator().manual_seed(seed * 7 + index), random.Random(seed * 7 + index)
    shapes = dict(some_shapes(architecture))
    first = shapes[FIRST_CONVOLUTION]
    shapes[FIRST_CONVOLUTION] = (first[0], channels, *first[2:])
    tensors = {key: torch.randn(shape, generator=generator).to(dealer.choice(dtypes)) for key, shape in shapes.items()}
    tensors |= {EMA_COPY: torch.randn(9, generator=generator), POSITIONS[architecture]: torch.arange(77)[None]}
    tensors |= {key: value + index for key, value in MARKERS.items()}
    if index == 0:
        tensors[ONLY_A] = torch.randn(33, generator=generator).to(dealer.choice(dtypes))
    else:
        tensors[ONLY_B] = torch.randn(5, generator=generator)
    return {key: tensor for key, tensor in tensors.items() if place_of(key, architecture) != without}


def lora_tensors(architecture: Architecture, index: int, modules: Sequence[str]) -> dict[str, Tensor]:
    """Return a LoRA of rank 2 with kohya's names."""
    generator = torch.Generator().manual_seed(100 + index)
    tensors = {}
    for module in modules:
        key = LAYERS[architecture][module]
        rows, *columns = some_shapes(architecture)[key]
        rows = rows // 3 if key.endswith("in_proj_weight") else rows
        kernel = (1, 1) if len(columns) == 3 else ()
        tensors[f"{module}.lora_up.weight"] = torch.randn(rows, 2, *kernel, generator=generator).half()
        tensors[f"{module}.lora_down.weight"] = torch.randn(2, *columns, generator=generator).half()
        tensors[f"{module}.alpha"] = torch.tensor(1.0)
    return tensors


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files to merge, and recipes for them."""

    architecture: Architecture = Architecture.SD15
    operations: tuple[Operation, ...] = (Operation(method="weighted_sum", inputs=("A", "B")),)
    dtypes: tuple[tuple[torch.dtype, ...], ...] = (HALVES, HALVES)  # per parent
    loras: int = 0
    vae: bool = False
    inpainting: bool = False  # parent A
    lacking: int | None = None  # the parent without a text encoder
    export: DtypeName | None = None
    seed: int = 11
    added: tuple[int, ...] = ()  # shape of one more weight, of zeros, that all parents have

    @property
    def letters(self) -> tuple[str, ...]:
        return letters(len(self.dtypes))

    def parent(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of a parent."""
        added = {ADDED: torch.zeros(self.added, dtype=self.dtypes[index][0])} if self.added else {}
        return added | parent_tensors(
            self.architecture,
            index,
            self.seed,
            self.dtypes[index],
            channels=INPAINTING_CHANNELS if self.inpainting and index == 0 else 4,
            without="text_encoder" if self.lacking == index else "",
        )

    def modules(self, index: int) -> tuple[str, ...]:
        """Return the modules of a LoRA: the first changes all layers, the second only one of the U-Net."""
        every = tuple(LAYERS[self.architecture])
        return every if index == 0 else every[:1]

    def vae_tensors(self) -> dict[str, Tensor]:
        whole = parent_tensors(self.architecture, 9, self.seed, FLOATS)
        return {key: tensor for key, tensor in whole.items() if place_of(key, self.architecture) == VAE}

    def open(self, folder: Path) -> Ingredients:
        """Write the files and open them."""
        opened, loras = [], []
        for index in range(len(self.dtypes)):
            save_file(self.parent(index), folder / f"{index}.safetensors")
            opened.append(Checkpoint.open(folder / f"{index}.safetensors"))
        for index in range(self.loras):
            path = folder / f"lora{index}.safetensors"
            save_file(lora_tensors(self.architecture, index, self.modules(index)), path)
            loras.append(Lora.open(path))
        if not self.vae:
            return Ingredients(Parents.of(opened), tuple(loras))
        save_file(self.vae_tensors(), folder / "vae.safetensors")
        return Ingredients(Parents.of(opened), tuple(loras), VaeFile.open(folder / "vae.safetensors"))

    def recipe(self, files: Ingredients, seed: int) -> Recipe:
        """Return a recipe with random numbers, many of them 0 or 1; every other recipe bakes the VAE."""
        dealer = random.Random(seed)
        every = places(self.architecture)
        return Recipe(
            architecture=self.architecture.value,
            parents=tuple(Parent(letter=letter, name=letter.lower(), sha256="0" * 64) for letter in self.letters),
            steps=tuple(
                Step(
                    operation=operation,
                    values=canonical_values(
                        {place: tuple(number_of(slot, dealer) for slot in operation.slots) for place in every}
                    ),
                )
                for operation in self.operations
            ),
            loras=tuple(
                LoraUse(
                    name=lora.name,
                    sha256=lora.sha256,
                    weights=tuple((place, dealer.choice((0.0, 0.7, -0.4))) for place in sorted(every)),
                )
                for lora in files.loras
            ),
            vae=BakedVae(name="vae", sha256=files.vae.sha256) if files.vae is not None and seed % 2 else None,
            dtype=self.export,
        )

    def resident(
        self,
        files: Ingredients,
        placement: Placement | None = Placement.DEVICE,
        live: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ResidentModel:
        return ResidentModel(
            files,
            device=device,
            live_dtypes=dict.fromkeys(COMPONENTS, live),
            export_dtype=self.export,
            placement=placement,
        )


def number_of(slot: Slot, dealer: random.Random) -> float:
    """Draw a number within the slot's search bounds; ratios are often 0, 1/2 or 1."""
    number = dealer.uniform(slot.low, slot.high)
    if slot.kind == "ratio":
        number = dealer.choice((0.0, 0.5, slot.high, number, number))
    return number


@st.composite
def chains(draw: st.DrawFn, letters: Sequence[str], methods: Sequence[str] = tuple(METHODS)) -> tuple[Operation, ...]:
    """Draw one to three steps, each taking parents or the result of the step before; no result is left unused."""
    fitting = [method for method in methods if METHODS[method].least_inputs <= len(letters)]
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 3))):
        info = METHODS[draw(st.sampled_from(fitting))]
        result = [f"result-{number}"] if number else []
        others = draw(st.permutations(letters))
        count = draw(st.integers(info.least_inputs, max(info.least_inputs, min(info.most_inputs, len(letters)))))
        inputs = [*result, *others][:count]
        operations.append(
            Operation(
                method=info.name,
                inputs=tuple(draw(st.permutations(inputs))),
                clip=draw(st.booleans()),
                seed=draw(st.integers(0, 9)),
            )
        )
    return tuple(operations)


@st.composite
def cases(draw: st.DrawFn, methods: Sequence[str] = tuple(METHODS)) -> Case:
    parents = draw(st.integers(2, 4))
    kinds = [(dtype,) for dtype in (*FLOATS, torch.float8_e4m3fn)]
    one_kind = st.sampled_from(kinds).map(lambda kind: (kind,) * parents)
    mixed = st.tuples(*[st.sampled_from([*kinds, FLOATS])] * parents)
    return Case(
        architecture=draw(st.sampled_from(list(Architecture))),
        operations=draw(chains(letters(parents), methods)),
        dtypes=draw(one_kind | mixed),
        loras=draw(st.integers(0, 2)),
        vae=draw(st.booleans()),
        inpainting=draw(st.booleans()),
        lacking=draw(st.none() | st.integers(0, 1)),
        export=draw(st.sampled_from([None, "fp16", "bf16", "fp32"])),
        seed=draw(st.integers(0, 1_000)),
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
