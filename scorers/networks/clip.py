"""One CLIP for all scorers that need it: image and text embeddings by open_clip, in full float32.

Activation: OpenAI trained CLIP with QuickGELU, x * sigmoid(1.702 x); later models use GELU. The activation has no
weights, so OpenAI's file loads into the plain architecture without an error, and every embedding is slightly wrong. For
a tag, open_clip knows the right activation. A file does not tell it, so the settings must give the tag under which a
file for a built-in architecture was published (`trained_as`). Only OpenAI's own archives and architectures named
`-quickgelu` need none. The tag also determines the colour normalisation.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict

from basics.files import sha256_of
from basics.foreign import read_json
from basics.messages import first_line, nearest
from scorers.errors import MissingWeightsError, ScorerSettingsError, WrongWeightsError
from scorers.images import Preprocess, prepare_batch
from scorers.networks.clip_files import architecture_file, fetch_tag, tag_config
from scorers.networks.digest import digest_of
from scorers.networks.inference import BATCH_SIZE, Runner
from scorers.networks.siglip_tokenizer import SigLipTokenizer
from scorers.networks.state_dict import first_finding
from scorers.networks.tokenizer_files import SETTING as TOKENIZER_SETTING
from scorers.networks.tokenizer_files import is_of_siglip, resolve_tokenizer
from scorers.weights.fetch import existing_file
from scorers.weights.tensors import is_torchscript, load_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from scorers.config import ClipModelSettings
    from scorers.protocol import BuildContext, SuiteImages


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """A choice of CLIP model, file and normalisation, not loaded yet."""

    model: str
    config: dict[str, Any]  # open_clip's architecture, with the right activation
    file: Path
    normalisation: Mapping[str, Any]  # as in open_clip's tags; empty: OpenAI's


class ClipEmbedder:
    """A CLIP in memory. Embeddings are L2-normalised float32 on the CPU.

    Image embeddings are cached with the images, so that all scorers of a trial share one forward pass. Text embeddings
    are cached here, because prompts are the same in every trial.
    """

    def __init__(
        self,
        model: Any,
        make_tokenizer: Callable[[], Any],
        preprocess: Preprocess,
        *,
        width: int,
        digest: Callable[[], str],
        key: Hashable,
        device: str = "cpu",
        in_turns: bool = False,
    ) -> None:
        self._model = model.float().eval().requires_grad_(requires_grad=False)
        self._runner = Runner(self._model, device, in_turns=in_turns)
        self._make_tokenizer = make_tokenizer
        self._make_digest = digest
        self._key = key
        self._texts: dict[str, Tensor] = {}
        self.preprocess = preprocess
        self.width = width

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first used: scorers of images alone need none, and SigLIP's is on the hub.

        Raises:
            MissingWeightsError: the hub does not provide it.
        """
        return self._make_tokenizer()

    @cached_property
    def digest(self) -> str:
        """A digest of weights and preprocessing, as every `FeatureNetwork` has; a file of some GB takes seconds."""
        return self._make_digest()

    @property
    def logit_scale(self) -> float:
        """The trained factor on cosines, about 100 for OpenAI's models."""
        return float(self._model.logit_scale.double().exp())

    def embed_images(self, images: SuiteImages) -> Tensor:
        """Embed the images: float32 [n, width]."""
        return images.memo(("clip", self._key), lambda: self.embed(images.images))

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Embed the prompts: float32 [n, width]. Prompts are cut off after the tokenizer's `context_length`."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        for start in range(0, len(new), BATCH_SIZE):
            batch = new[start : start + BATCH_SIZE]
            self._texts.update(zip(batch, self._encode_texts(batch), strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Embed images, uint8 [3, h, w] of any sizes, without caching: float32 [n, width]."""

        def encode(batch: list[Tensor]) -> Tensor:
            embedded: Tensor = self._model.encode_image(prepare_batch(batch, self.preprocess, self._runner.device))
            return embedded

        return F.normalize(self._runner.map(images, encode), dim=-1)

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        with self._runner.on_device():
            tokens = self.tokenizer(list(prompts)).to(self._runner.device)
            return F.normalize(self._model.encode_text(tokens).float().cpu(), dim=-1)


def shared_embedder(settings: ClipModelSettings, context: BuildContext) -> ClipEmbedder:
    """Return the embedder of these settings, loaded once in each context; raises as `load_embedder`."""
    key = ("clip", settings, context.device)
    return context.shared.get(key, lambda: load_embedder(settings, context.device, in_turns=context.in_turns))


def load_embedder(settings: ClipModelSettings, device: str = "cpu", *, in_turns: bool = False) -> ClipEmbedder:
    """Load the CLIP of the settings.

    Args:
        device: as torch spells it.
        in_turns: move the network to the device only while it is used.

    Raises:
        ScorerSettingsError: open_clip has no such architecture or tag, or cannot build it.
        MissingWeightsError: the weights are missing and cannot be downloaded.
        WrongWeightsError: the file does not fit the architecture, may run code, or its activation is unknown.
    """
    plan = plan_model(settings)
    model = make_model(plan.config)
    load_weights(model, plan.file, settings.model)
    preprocess = preprocess_of(model.visual.image_size, plan.normalisation)
    return ClipEmbedder(
        model,
        partial(make_tokenizer, plan.model, plan.config["text_cfg"], settings.tokenizer),
        preprocess,
        width=plan.config["embed_dim"],
        digest=lambda: digest_of("clip", repr(plan.config), sha256_of(plan.file), repr(preprocess)),
        key=(settings, device),
        device=device,
        in_turns=in_turns,
    )


def plan_model(settings: ClipModelSettings) -> ClipPlan:
    """Choose architecture, activation, normalisation and file, without loading weights; raises as `load_embedder`."""
    config = architecture_of(settings)
    tag = tag_config(settings)
    normalisation = tag or config.pop("preprocess_cfg", None) or _common_normalisation(settings)
    # The activation comes before the download, so that a contradiction is found first.
    quick_gelu = _needs_quick_gelu(settings, config, tag)
    file = settings.weights_file
    if file is None:
        file = fetch_tag(settings, tag)
    config["quick_gelu"] = quick_gelu
    return ClipPlan(model=settings.model, config=config, file=file, normalisation=normalisation)


def architecture_of(settings: ClipModelSettings) -> dict[str, Any]:
    """Return the architecture of the settings, in the format of open_clip's JSON files.

    Raises:
        ScorerSettingsError: open_clip has no such architecture, or the user's own is not in that format.
    """
    return _own_config(settings) or _builtin_config(settings.model)


def make_model(config: dict[str, Any]) -> Any:
    """Make an open_clip model with random weights.

    open_clip.create_model is not used, because it may ask the hub for the weights of either tower.

    Args:
        config: the architecture in the format of open_clip's JSON files.

    Raises:
        ScorerSettingsError: the architecture is a CoCa model, or open_clip cannot build it.
    """
    config = copy.deepcopy(config)
    if "multimodal_cfg" in config:
        raise ScorerSettingsError("expected a CLIP architecture, got a CoCa model: choose another architecture")
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    own_text = "hf_model_name" in config["text_cfg"]
    if own_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or own_text
    try:
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    except (TypeError, ValueError, AssertionError) as error:  # an architecture of the user's own
        raise ScorerSettingsError(
            f"open_clip cannot build a CLIP from this architecture ({error}): correct its file in config_dir"
        ) from error


def load_weights(model: Any, path: Path, architecture: str) -> None:
    """Load the tensors of a file into an open_clip model; every key must fit.

    open_clip.load_checkpoint is not used, because it silently resamples position embeddings of another image size.

    Args:
        architecture: the model's name, for messages.

    Raises:
        WrongWeightsError: the file cannot be opened safely, or does not fit the model.
    """
    advice = "give its weights with `clip.pretrained`, or name the file's architecture with `clip.model`"
    load_state(model, read_state(path), str(path), expected=f"the CLIP architecture {architecture}", advice=advice)


def load_state(model: Any, state: dict[str, Tensor], source: str, *, expected: str, advice: str) -> None:
    """Load named tensors into an open_clip model; every key must fit.

    Args:
        source: their file, for messages.
        expected: the model, for messages.
        advice: what to do if they do not fit.

    Raises:
        WrongWeightsError: they do not fit the model.
    """
    state = convert_state_dict(model, state)
    if not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # [] or [1], depending on the age of the file
        if name in state and getattr(model, name, None) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WrongWeightsError(f"{source} does not fit {expected} ({first_finding(error)}): {advice}") from error


def read_state(path: Path, trusted_archives: frozenset[str] | None = None) -> dict[str, Tensor]:
    """Read the tensors of a CLIP file.

    Args:
        trusted_archives: sha256 of the TorchScript archives that may be opened, which can run code; by default
            those that OpenAI published (see `openai_digests`).

    Raises:
        WrongWeightsError: the file is an untrusted TorchScript archive, or not a file of plain tensors.
    """
    if not is_torchscript(path):
        state = load_tensors(path)
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    trusted = openai_digests() if trusted_archives is None else trusted_archives
    if sha256_of(path) not in trusted:
        raise WrongWeightsError(
            f"{path} is a TorchScript archive, which may run code, and OpenAI has not published it: "
            "convert it to .safetensors"
        )
    with warnings.catch_warnings():
        # TorchScript is deprecated, but OpenAI's files exist in no other format.
        warnings.simplefilter("ignore")
        archive = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    state = dict(archive.state_dict())
    for name in ("input_resolution", "context_length", "vocab_size"):  # numbers, not weights
        state.pop(name, None)
    return {name: tensor.float() for name, tensor in state.items()}


def openai_digests() -> frozenset[str]:
    """Return the sha256 of every CLIP archive that OpenAI published, which its URL in open_clip's table contains."""
    tags = (open_clip.get_pretrained_cfg(model, tag) for model, tag in open_clip.list_pretrained())
    urls = (tag.get("url", "") for tag in tags)
    return frozenset(url.split("/")[-2] for url in urls if "openaipublic" in url)


def preprocess_of(size: int | tuple[int, int], normalisation: Mapping[str, Any]) -> Preprocess:
    """Return open_clip's preprocessing for an image size and a tag's entry; OpenAI's if that is empty."""
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        size=(height, width),
        mean=tuple(normalisation.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(normalisation.get("std", open_clip.OPENAI_DATASET_STD)),
        interpolation="bilinear" if normalisation.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=normalisation.get("resize_mode") or "shortest",
        fill=normalisation.get("fill_color", 0),
    )


def make_tokenizer(model: str, text_config: Mapping[str, Any], file: Path | None = None) -> Any:
    """Make the tokenizer of an architecture. CLIP's own vocabulary is part of open_clip; others come from the hub.

    Args:
        file: the user's own tokenizer.json of a SigLIP.

    Raises:
        ScorerSettingsError: there is a file, and the architecture is not a SigLIP.
        MissingWeightsError: the hub does not provide the tokenizer.
        WrongWeightsError: the file holds no tokenizer of the architecture.
    """
    if is_of_siglip(text_config):
        return SigLipTokenizer(resolve_tokenizer(file, text_config), text_config)
    if file is not None:
        raise ScorerSettingsError(f"option {TOKENIZER_SETTING!r} is for a SigLIP, {model} is another: leave it out")
    if not text_config.get("hf_tokenizer_name") and "siglip" not in model.lower():
        return open_clip.SimpleTokenizer(
            context_length=text_config.get("context_length", 77), **text_config.get("tokenizer_kwargs", {})
        )
    try:
        return open_clip.get_tokenizer(model)
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingWeightsError(
            f"the tokenizer of {model!r} could not be fetched from the Hugging Face hub "
            f"({first_line(error)}): choose a model with CLIP's own vocabulary"
        ) from error


def token_count(prompt: str, tokenize: Any = None) -> int:
    """Count the tokens of a prompt in CLIP's vocabulary (or that of `tokenize`), start and end tokens included."""
    tokenize = tokenize or open_clip.SimpleTokenizer()
    encode = getattr(tokenize, "encode", None) or tokenize.tokenizer.encode
    return len(encode(prompt)) + 2


def _own_config(settings: ClipModelSettings) -> dict[str, Any] | None:
    """Read the architecture from config_dir; None if the settings have no config_dir."""
    if settings.config_dir is None:
        return None
    path = architecture_file(settings.config_dir, settings.model)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ScorerSettingsError(f"{path} is not JSON ({error}): correct it") from error
    required = {"embed_dim", "vision_cfg", "text_cfg"}
    if not isinstance(config, dict) or not required <= config.keys():
        raise ScorerSettingsError(f"{path} must have the keys {', '.join(sorted(required))}, as open_clip's files do")
    return config


def _builtin_config(model: str) -> dict[str, Any]:
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        names = ", ".join(nearest(model, open_clip.list_models(), count=3)) or "those of open_clip.list_models()"
        raise ScorerSettingsError(
            f"open_clip has no architecture {model!r}: use one such as {names}, or set config_dir for one of your own"
        )
    return dict(config)


def _common_normalisation(settings: ClipModelSettings) -> Mapping[str, Any]:
    """Return what all tags of a built-in architecture agree on, as those of a SigLIP do; empty if they do not."""
    if settings.config_dir is not None:
        return {}
    tags = [
        open_clip.get_pretrained_cfg(settings.model, name)
        for name in open_clip.list_pretrained_tags_by_model(settings.model)
    ]
    same = all(preprocess_of(1, tag) == preprocess_of(1, tags[0]) for tag in tags)
    return tags[0] if tags and same else {}


def _needs_quick_gelu(settings: ClipModelSettings, config: Mapping[str, Any], tag: Mapping[str, Any]) -> bool:
    """Return whether the weights were trained with QuickGELU; see the top of this module.

    Raises:
        WrongWeightsError: a file without a tag may have been trained with either activation.
    """
    if settings.weights_file is not None:
        existing_file(settings.weights_file, "clip.pretrained")
    if tag:
        return bool(tag.get("quick_gelu", False))
    if settings.config_dir is not None or config.get("quick_gelu", False):
        return bool(config.get("quick_gelu", False))
    if settings.weights_file is not None and is_torchscript(settings.weights_file):
        return True  # OpenAI's own archive; read_state opens no other
    tags = open_clip.list_pretrained_tags_by_model(settings.model)
    if any(open_clip.get_pretrained_cfg(settings.model, name).get("quick_gelu") for name in tags):
        raise WrongWeightsError(
            f"{settings.pretrained} does not say whether this {settings.model!r} was trained with QuickGELU, like "
            "OpenAI's, or with GELU, and the wrong one would give wrong scores without an error: set clip.trained_as "
            f"to the open_clip tag of the file, one of {', '.join(tags)}"
        )
    return False
