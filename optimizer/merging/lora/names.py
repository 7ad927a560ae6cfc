"""Mapping from the names in LoRA files to the weights of a checkpoint.

Programs name the same module in many ways, some with underscores instead of dots, so a name cannot be parsed without
knowing the model. Names are therefore not parsed but looked up: every weight of the checkpoint is listed under all the
names that programs give it.

    kohya, SD1.5          lora_unet_down_blocks_0_attentions_0_proj_in, lora_te_text_model_encoder_layers_0_mlp_fc1
    kohya, SDXL           lora_unet_input_blocks_4_1_proj_in (or as above), lora_te1_..., lora_te2_...
    diffusers and PEFT    unet.down_blocks.0.attentions.0.proj_in, text_encoder..., text_encoder_2...
    diffusers before 0.22 ...attn1.processor.to_q_lora, text_encoder...self_attn.to_q_lora
    PEFT alone            base_model.model. before any of these, or before the bare module
    ComfyUI               diffusion_model.input_blocks.1.1.proj_in, text_encoders.clip_l.transformer.text_model...
    OneTrainer            unet.input_blocks.1.1.proj_in, clip_l.text_model..., or lora_unet. and lora_te. with dots
    SimpleTuner           lycoris_down_blocks_0_attentions_0_proj_in
    Stable Cascade's      lora_prior_unet_input_blocks_4_1_proj_in, lora_prior_te_text_model...
    the checkpoint's own  model.diffusion_model.input_blocks.1.1.proj_in, cond_stage_model.transformer.text_model...
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from optimizer.families.registry import model_families, model_family
from optimizer.merging.files.checkpoint import component_of
from optimizer.merging.files.layout import Component, LiveView, live_views
from optimizer.merging.files.sources import TensorInfo
from search_spaces.blocks import Architecture, text_encoders
from search_spaces.families.registry import family_of
from search_spaces.recognition import description_of

Naming = Literal["kohya", "diffusers"]
Role = Literal["up", "down", "mid", "alpha", "scale", "scalar"]

PEFT_PREFIX = "base_model.model."

# What programs put before the name of a layer of the U-Net, as checkpoint files or as diffusers name it.
_UNET_DOTTED = ("unet.", "lora_unet.", "diffusion_model.", "transformer.", "")
_UNET_FLAT = ("lora_unet_", "lora_prior_unet_", "lycoris_")  # with underscores for dots


@dataclass(frozen=True, slots=True)
class Target:
    """A weight to which a low-rank product can be added: that of a linear layer or a convolution."""

    key: str  # of the stored tensor
    view: LiveView  # of the layer, in the stored tensor
    shape: tuple[int, ...]  # of the layer's weight: [out, in] or [out, in, height, width]

    @property
    def module(self) -> str:
        """The layer's name in the live model."""
        return self.view.name.removesuffix(".weight")


def targets_of(key: str, info: TensorInfo, architecture: Architecture) -> tuple[Target, ...]:
    """Return the layers whose weights a stored tensor holds: none, one, or the three of a fused attention projection.

    Norms, biases and embeddings hold none. Neither does the VAE, because no program applies LoRAs to it.
    """
    if len(info.shape) not in {2, 4}:
        return ()
    stored = torch.empty(info.shape, device="meta")
    return tuple(
        Target(key, view, tuple(view.of(stored).shape))
        for view in live_views(key, architecture, len(info.shape))
        if view.component != "vae" and view.name.endswith(".weight") and "embeddings." not in view.name
    )


def targets_by_name(tensors: Mapping[str, TensorInfo], architecture: Architecture) -> dict[str, Target]:
    """Return every name that a LoRA file may use for a weight of a checkpoint with these tensors -> that weight."""
    return {
        name: target
        for key, info in tensors.items()
        for target in targets_of(key, info, architecture)
        for name in _names_of(target, architecture)
    }


def _names_of(target: Target, architecture: Architecture) -> tuple[str, ...]:
    """Return the names that programs give a weight."""
    if target.view.component == "unet":
        return tuple(
            name
            for module in (target.module, _stored_module(target, architecture))
            for name in (
                *(prefix + module for prefix in _UNET_DOTTED),
                *(prefix + module.replace(".", "_") for prefix in _UNET_FLAT),
                _own_name(target),
            )
        )
    return _text_names(target, architecture)


def _text_names(target: Target, architecture: Architecture) -> tuple[str, ...]:
    """Return the names that programs give a weight of a text encoder."""
    module, component, names = target.module, target.view.component, model_family(architecture).lora
    kohya, clip = names.prefixes[component], names.clips.get(component)
    is_only_one = len(text_encoders(architecture)) == 1  # otherwise a bare name may mean a module of either
    prefixes = (*_text_prefixes(component, architecture), *(("",) if is_only_one else ()))
    flat = module.replace(".", "_")
    cascade = (f"lora_prior_te_{flat}",) if clip == "clip_g" else ()  # Stable Cascade reads this encoder alone
    own = (_own_name(target),) if target.view.reading == "whole" else ()  # a fused tensor has one name for three
    return (
        kohya + flat,
        # transformers 5.2 dropped the level `text_model` of the first encoder
        *(prefix + name for prefix in prefixes for name in _levels(module)),
        *cascade,
        *own,
    )


def _text_prefixes(component: Component, architecture: Architecture) -> tuple[str, ...]:
    """Return what programs put before the dotted name of a layer of a text encoder."""
    names = model_family(architecture).lora
    kohya, clip = names.prefixes[component].removesuffix("_"), names.clips.get(component)
    outer = () if clip is None else (f"{clip}.", f"text_encoders.{clip}.")
    others = tuple(prefix + level for prefix in outer for level in ("", "transformer."))
    return (f"{component}.", f"{kohya}.", *others)


def component_of_name(name: str, architecture: Architecture) -> Component | None:
    """Return the component of a layer that a checkpoint may lack, by the beginning of its name; None if unknown."""
    family = model_family(architecture)
    for component in text_encoders(architecture):
        if name.startswith((family.lora.prefixes[component], *_text_prefixes(component, architecture))):
            return component
    return "unet" if name.startswith((*filter(None, _UNET_DOTTED), *_UNET_FLAT, family.keys.unet)) else None


def _levels(module: str) -> tuple[str, ...]:
    return (module, module.removeprefix("text_model.")) if module.startswith("text_model.") else (module,)


def _own_name(target: Target) -> str:
    """Return the name of a layer's weight in the checkpoint itself."""
    return target.key.removesuffix(".weight")


def _stored_module(target: Target, architecture: Architecture) -> str:
    """Return the name of a U-Net's layer in checkpoint files."""
    return target.key.removeprefix(model_family(architecture).keys.unet).removesuffix(".weight")


def name_in(target: Target, naming: Naming, architecture: Architecture) -> str:
    """Return a weight's name in one convention; kohya's scripts name SDXL's U-Net layers as checkpoint files do."""
    component, names = target.view.component, model_family(architecture).lora
    if naming == "diffusers":
        return f"{component}.{target.module}"
    stored = component == "unet" and names.unet_as_stored
    module = _stored_module(target, architecture) if stored else target.module
    return names.prefixes[component] + module.replace(".", "_")


# ------------------------------------------------------------------------------ the names of a file

_FACTOR = re.compile(
    r"(?P<module>.+?)(?:"
    r"\.lora_(?P<kohya>up|down|mid)"
    r"|\.lora_(?P<peft>[AB])(?:\.[^.]+)?"  # PEFT may put its adapter's name in between
    r"|(?:\.lora|\.lora_linear_layer|(?P<processor>_lora))\.(?P<diffusers>up|down)"
    r")\.weight"
)
_NUMBER = re.compile(
    r"(?P<module>.+?)(?:\.lora|\.lora_linear_layer|(?P<processor>_lora))?\.(?P<role>alpha|scale|scalar)"
)
_PROCESSOR_LEAVES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def role_of(key: str) -> tuple[str, Role] | None:
    """Return (module as in `targets_by_name`, role of the tensor); None for a key that belongs to no LoRA."""
    if number := _NUMBER.fullmatch(key):
        numbers: dict[str, Role] = {"alpha": "alpha", "scale": "scale", "scalar": "scalar"}
        return _plain(number["module"], processor=number["processor"] is not None), numbers[number["role"]]
    factor = _FACTOR.fullmatch(key)
    if factor is None:
        return None
    roles: dict[str | None, Role] = {"A": "down", "B": "up", "up": "up", "down": "down", "mid": "mid"}
    role = roles[factor["kohya"] or factor["peft"] or factor["diffusers"]]
    return _plain(factor["module"], processor=factor["processor"] is not None), role


def _plain(module: str, *, processor: bool) -> str:
    """Remove PEFT's prefix, and replace the name of a layer's attention processor by that of the layer."""
    module = module.replace(PEFT_PREFIX, "", 1)
    if not processor and ".processor." not in module:
        return module
    parent, _, leaf = module.replace(".processor.", ".").rpartition(".")
    if parent.endswith(".self_attn"):
        return f"{parent}.{_PROCESSOR_LEAVES.get(leaf, leaf)}"
    return f"{parent}.to_out.0" if leaf == "to_out" else f"{parent}.{leaf}"


# Names, widths and headers that identify the model of a LoRA that was made for none of our families.
_OTHERS_BY_NAME = (
    ("Flux", re.compile(r"double_blocks|single_blocks|single_transformer_blocks")),
    ("SD3", re.compile(r"joint_blocks")),
    ("a diffusion transformer", re.compile(r"^(transformer\.|lora_transformer_)(transformer_)?blocks[._]")),
    ("SD2", re.compile(r"^text_encoders\.clip_h\.")),
    ("Stable Cascade", re.compile(r"^lora_prior_")),
)
_OTHERS_BY_CONTEXT_WIDTH: dict[int | None, str] = {1024: "SD2"}
_OTHERS_BY_HEADER = (
    ("SD2", re.compile(r"^(sd_?v?2|stable-diffusion-v2)")),
    ("SD3", re.compile(r"^(sd_?v?3|stable-diffusion-3)")),
    ("Flux", re.compile(r"^flux")),
)
_CONTEXT = re.compile(r"attn2[._]to_[kv]$")


def made_for(widths: Mapping[str, int], metadata: Mapping[str, str]) -> str | None:
    """Return the title of the model family that a LoRA was made for; None if unknown.

    Args:
        widths: module -> input features.
        metadata: of the file.
    """
    header_values = (metadata.get("modelspec.architecture", ""), metadata.get("ss_base_model_version", ""))
    contexts = {width for name, width in widths.items() if _CONTEXT.search(name)}
    ours = [(family_of(architecture).title, model_family(architecture).lora) for architecture in Architecture]
    by_name = (*_OTHERS_BY_NAME, *((title, names.names) for title, names in ours))
    by_width = _OTHERS_BY_CONTEXT_WIDTH | {names.context_width: title for title, names in ours}
    by_header = (*((title, names.header) for title, names in ours), *_OTHERS_BY_HEADER)
    return (
        _first_match(by_name, widths)
        or next(filter(None, map(by_width.get, contexts)), None)
        or _first_match(by_header, header_values)
    )


def _first_match(patterns: Iterable[tuple[str, re.Pattern[str] | None]], texts: Collection[str]) -> str | None:
    """Return the first title whose pattern is found in any of the texts."""
    return next((title for title, pattern in patterns if pattern and any(map(pattern.search, texts))), None)


# Other adapters in files of the same suffix: (pattern of a key, description).
_OTHER_KINDS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector(\.weight)?)$"), "a DoRA (weights with a learned magnitude)"),
    (re.compile(r"\.[wb]_norm$"), "a LyCORIS with trained norms, which no low-rank product holds"),
    (re.compile(r"\.hada_"), "a LoHa (LyCORIS Hadamard product)"),
    (re.compile(r"\.lokr_"), "a LoKr (LyCORIS Kronecker product)"),
    (re.compile(r"\.(oft_|boft_|oft_R)"), "an OFT (orthogonal fine-tuning)"),
    (re.compile(r"\.[ab][12]\.weight$"), "a GLoRA"),
    (re.compile(r"\.on_input$|\.ia3_l(\.|$)"), "an (IA)^3 adapter"),
    (re.compile(r"\.vera_lambda_"), "a VeRA (shared random factors)"),
    (re.compile(r"\.bias_(indices|values|size)$"), "a LoCon with sparse biases"),
    (re.compile(r"^lora_controlnet$"), "a Control-LoRA"),
    (re.compile(r"\.(diff|diff_b|set_weight)$"), "a file with full differences of weights"),
    (re.compile(r"^\w+:\d+:(up|down)$"), "a LoRA of cloneofsimo's lora_diffusion, which has no names of layers"),
    (re.compile(r"^bundle_emb\."), "a LoRA with bundled embeddings"),
    (re.compile(r"lora_(up|B(\.[^.]+)?|linear_layer\.up)\.bias$|_lora\.up\.bias$"), "a LoRA with biases"),
    (re.compile(r"lora_embedding_[AB]"), "a LoRA of embeddings"),
    (re.compile(r"^(double_blocks|single_blocks|joint_blocks)\."), "a checkpoint of another model"),
)
_CHECKPOINT = re.compile(r"(cond_stage_model|conditioner)\.")


def other_kind(keys: Iterable[str]) -> str | None:
    """Describe a file with these keys that is not a plain LoRA; None if nothing speaks against one."""
    keys = tuple(keys)
    kind = next((description for pattern, description in _OTHER_KINDS if any(map(pattern.search, keys))), None)
    if kind is not None:
        return kind
    prefixes = tuple(prefix for family in model_families() for prefix in (family.keys.unet, family.keys.vae))
    others = [key for key in keys if role_of(key) is None]  # a LoRA may name its layers as the checkpoint does
    if any(key.startswith(prefixes) or _CHECKPOINT.match(key) for key in others):
        return "a checkpoint"
    if _is_bare_unet(others):
        return "a U-Net"
    if len(others) == len(keys) and (known := description_of(keys)):
        return known.partition(":")[0]
    return None


def _is_bare_unet(keys: Collection[str]) -> bool:
    """Return whether these are keys of a known family's U-Net without its prefix, the first convolution among them."""
    names = [family.keys for family in model_families() if family.keys.bare_unet]
    return any((each.first_convolution or "").removeprefix(each.unet) in keys for each in names)


def components_without_layers(
    names: Iterable[str], tensors: Mapping[str, TensorInfo], architecture: Architecture
) -> tuple[str, ...]:
    """Return the components that all these names of modules are of, if a checkpoint has none of them; else none.

    Args:
        names: of modules that are not in the checkpoint.
        tensors: the checkpoint's.
    """
    absent = {"unet", *text_encoders(architecture)} - {component_of(key, architecture) for key in tensors}
    homes = [component_of_name(name, architecture) for name in names]
    return tuple(dict.fromkeys(home for home in homes if home)) if absent.issuperset(homes) else ()
