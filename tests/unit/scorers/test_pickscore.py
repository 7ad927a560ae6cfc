"""PickScore on a small random CLIP in the published format, against transformers' own model in float64."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from scorer_helpers import embedder_of, forwards_of, picture
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from scorers import registry
from scorers.errors import MissingWeightsError, WrongWeightsError
from scorers.networks.clip.transformers_keys import as_open_clip
from scorers.networks.clip.vit_h import clip_h_config
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import ImageScorer

# A ViT-H/14 with two heads instead of sixteen. Its width for an attention head is the true one: 80 and 64.
TINY = {
    "projection_dim": 48,
    "vision_config": {
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    },
}


@pytest.fixture(scope="module")
def reference() -> CLIPModel:
    """The author's model, in float64; attention written out, as in the version of transformers that he trained with."""
    torch.manual_seed(11)
    model = CLIPModel(CLIPConfig(**TINY, attn_implementation="eager")).double().eval()
    with torch.no_grad():
        for tensor in model.parameters():  # no bias is zero, and no norm's weight is one
            tensor.add_(0.03 * torch.randn_like(tensor)) if tensor.ndim else tensor.fill_(4.5)
    return model


@pytest.fixture(scope="module")
def weights(reference: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as it is published: model.safetensors in float32, with the position numbers of older versions."""
    state = {name: tensor.float().contiguous() for name, tensor in reference.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    path = tmp_path_factory.mktemp("pickscore") / "model.safetensors"
    save_file(state, path)
    return path


def built(weights: Path, context: BuildContext) -> ImageScorer:
    settings = registry.parse_settings("pickscore", {"weights": weights.name}, weights.parent)
    return cast("ImageScorer", registry.build("pickscore", settings, context))


def by_transformers(model: CLIPModel, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the author's formula: the trained factor times the cosine of each pair."""
    with torch.no_grad():
        found = model(input_ids=tokens, pixel_values=pixels)
        images, texts = (each / each.norm(dim=-1, keepdim=True) for each in (found.image_embeds, found.text_embeds))
        scores: torch.Tensor = model.logit_scale.exp() * (images * texts).sum(dim=-1)
    return scores


def test_a_score_is_the_authors_formula_on_the_clip_of_transformers(
    reference: CLIPModel, weights: Path, context: BuildContext
) -> None:
    images = tuple(picture(seed, 56, 56) for seed in range(5))  # the network's own size: nothing is resized
    prompts = ("a cat", "a dog in the rain", "a cat", "", "an oil painting of three red apples on a table, detailed")
    scores = built(weights, context).score(SuiteImages(images=images, prompts=prompts))

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)
    tokens = embedder_of(built(weights, context)).tokenizer(list(prompts))
    expected = by_transformers(reference, (torch.stack(images).double() / 255 - mean) / std, tokens)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert scores.std() > 0.1


def test_images_are_prepared_as_in_training(
    reference: CLIPModel, weights: Path, context: BuildContext, suite: SuiteImages
) -> None:
    """By the processor of the published repository: shorter edge, bicubic, cropped."""
    processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    arrays = [image.permute(1, 2, 0).numpy() for image in suite.images]
    pixels = processor(arrays, return_tensors="pt")["pixel_values"].double()
    scorer = built(weights, context)
    tokens = embedder_of(scorer).tokenizer(list(suite.prompts))
    expected = by_transformers(reference, pixels, tokens)
    torch.testing.assert_close(scorer.score(suite), expected, atol=0.5, rtol=0)  # grey levels apart, see test_images
    assert expected.std() > 2


def test_scorers_of_the_same_weights_share_one_network_and_one_forward(
    weights: Path, context: BuildContext, suite: SuiteImages
) -> None:
    first, second = built(weights, context), built(weights, context)
    assert embedder_of(first) is embedder_of(second)
    with forwards_of(first) as forwards:
        assert torch.equal(first.score(suite), second.score(suite))
    assert sum(forwards) == len(suite)


def test_the_true_architecture_is_read_off_its_shapes() -> None:
    with torch.device("meta"):
        state = CLIPModel(CLIPConfig(
            projection_dim=1024,
            vision_config={"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                           "num_attention_heads": 16, "patch_size": 14},
            text_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                         "num_attention_heads": 16},
        )).state_dict()  # fmt: skip
    config = clip_h_config(as_open_clip(state), "file")
    assert config == {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual_projection.weight": None}, "does not hold PickScore: expected the keys of transformers' CLIPModel"),
        ({"text_model.encoder.layers.1.mlp.fc1.bias": None}, r"does not fit a CLIP ViT-H/14 \(missing "),
        ({"text_model.encoder.layers.1.self_attn.k_proj.bias": None}, r"does not fit a CLIP ViT-H/14 \(size mism"),
        (
            {"text_model.encoder.layers.1.self_attn.q_proj.bias": None},
            r"does not fit a CLIP ViT-H/14 \(missing ",
        ),
        ({"more.weight": torch.ones(1)}, r"does not fit a CLIP ViT-H/14 \(unexpected "),
        ({"vision_model.embeddings.patch_embedding.weight": torch.ones(768, 3, 14, 14)}, "another CLIP than ViT-H/14"),
        ({"visual_projection.weight": torch.ones(3)}, "does not hold PickScore"),
        (
            {"vision_model.embeddings.position_embedding.weight": torch.ones(3)},
            "positional_embedding with 2 dimensions",
        ),
        (
            {"text_model.encoder.layers.1.self_attn.q_proj.bias": torch.tensor(1.0)},
            "does not fit a CLIP ViT-H/14",
        ),
    ],
)
def test_a_file_of_something_else_gets_one_line(
    change: dict[str, torch.Tensor | None], message: str, weights: Path, context: BuildContext, tmp_path: Path
) -> None:
    state = load_file(weights) | change
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "w.safetensors")
    with pytest.raises(WrongWeightsError, match=message) as caught:
        built(tmp_path / "w.safetensors", context)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_in_seconds(
    context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    settings = registry.parse_settings("pickscore", {}, tmp_path)
    with pytest.raises(MissingWeightsError, match=r"PickScore v1 .*yuvalkirstain/PickScore_v1, .*option 'weights'"):
        registry.build("pickscore", settings, context)
    with pytest.raises(MissingWeightsError, match=r"no file at .*none.pt, named by option 'weights'"):
        built(tmp_path / "none.pt", context)
    assert time.monotonic() - began < 8
