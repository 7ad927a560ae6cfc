"""One CLIP for all scorers that need it: image and text embeddings by open_clip, in full float32."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from basics.files import sha256_of
from scorers.images import Preprocess, prepare_batch
from scorers.networks.clip.architecture import make_model
from scorers.networks.clip.plan import plan_model
from scorers.networks.clip.preprocessing import preprocess_of
from scorers.networks.clip.tokenizer import make_tokenizer
from scorers.networks.clip.weights import load_weights
from scorers.networks.digest import digest_of
from scorers.networks.inference import BATCH_SIZE, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from torch import Tensor

    from scorers.config import ClipModelSettings
    from scorers.protocol import BuildContext, SuiteImages


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
