"""HPS v2.1 on a small random CLIP in the published format, against CLIP's forward written out in float64."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import open_clip
import pytest
import torch
import torch.nn.functional as F
from scorer_helpers import embedder_of, forwards_of, picture
from torchvision.transforms.functional import InterpolationMode, pad, resize

from scorers import registry
from scorers.errors import MissingWeightsError, WrongWeightsError
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import ImageScorer

# The authors' ViT-H-14.json with two heads instead of sixteen, at a fourth of the size.
TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 56, "layers": 2, "width": 160, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as it is published: a mapping with a state_dict in half precision."""
    torch.manual_seed(12)
    state = open_clip.CLIP(**TINY).state_dict()
    state = {name: (tensor + 0.03 * torch.randn_like(tensor)).half() for name, tensor in state.items()}
    path = tmp_path_factory.mktemp("hps") / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": state}, path)
    return path


@pytest.fixture
def state(weights: Path) -> State:
    return {name: value.double() for name, value in torch.load(weights, weights_only=True)["state_dict"].items()}


def built(weights: Path, context: BuildContext) -> ImageScorer:
    settings = registry.parse_settings("hps", {"weights": weights.name}, weights.parent)
    return cast("ImageScorer", registry.build("hps", settings, context))


def norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def block(state: State, name: str, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A layer of CLIP's transformers with two heads: attention, then two linear layers with GELU; norms come first."""

    def linear(part: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"]

    mixed = norm(state, f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
    heads = (*x.shape[:2], 2, x.shape[2] // 2)
    query, key, value = (each.reshape(heads).transpose(1, 2) for each in mixed.chunk(3, dim=-1))
    weight = query @ key.mT / query.shape[-1] ** 0.5
    weight = weight if mask is None else weight + mask
    x = x + linear("attn.out_proj", (weight.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
    hidden = linear("mlp.c_fc", norm(state, f"{name}.ln_2", x))
    return x + linear("mlp.c_proj", hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))


def hps(state: State, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the authors' score of pairs, a cosine, from pixels [n, 3, 56, 56] and tokens [n, 77]."""
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=14).flatten(2).mT
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = norm(state, "visual.ln_pre", torch.cat([first, patches], dim=1) + state["visual.positional_embedding"])
    for layer in range(2):
        x = block(state, f"visual.transformer.resblocks.{layer}", x, None)
    images = norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    y = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    future = torch.full((77, 77), -torch.inf, dtype=torch.float64).triu(1)
    for layer in range(2):
        y = block(state, f"transformer.resblocks.{layer}", y, future)
    y = norm(state, "ln_final", y)
    texts = y[torch.arange(len(y)), tokens.argmax(dim=-1)] @ state["text_projection"]
    cosines: torch.Tensor = (images * texts).sum(dim=-1) / (images.norm(dim=-1) * texts.norm(dim=-1))
    return cosines


def test_a_score_is_a_hundred_times_the_authors_cosine(state: State, weights: Path, context: BuildContext) -> None:
    images = tuple(picture(seed, 56, 56) for seed in range(5))  # the network's own size: nothing is resized
    prompts = ("a cat", "a dog in the rain", "a cat", "", "an oil painting of three red apples on a table, detailed")
    scores = built(weights, context).score(SuiteImages(images=images, prompts=prompts))
    pixels = (torch.stack(images).double() / 255 - MEAN) / STD
    expected = 100 * hps(state, pixels, open_clip.tokenize(list(prompts)))
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert scores.std() > 0.1


def prepared(image: torch.Tensor) -> torch.Tensor:
    """Prepare an image as the authors' ResizeMaxSize does: in floats, the longer edge fits, the rest is black."""
    height, width = image.shape[1:]
    scale = 56 / max(height, width)
    size = [round(height * scale), round(width * scale)]
    levels = resize(image.double() / 255, size, InterpolationMode.BICUBIC, antialias=True)
    y, x = 56 - size[0], 56 - size[1]
    padded: torch.Tensor = pad(levels, [x // 2, y // 2, x - x // 2, y - y // 2], fill=0)
    return (padded - MEAN) / STD


def test_images_are_fitted_and_padded_as_the_authors_do(
    state: State, weights: Path, context: BuildContext, suite: SuiteImages
) -> None:
    scorer = built(weights, context)
    pixels = torch.stack([prepared(image) for image in suite.images])
    expected = 100 * hps(state, pixels, open_clip.tokenize(list(suite.prompts)))
    torch.testing.assert_close(scorer.score(suite), expected, atol=0.2, rtol=0)  # grey levels apart, see hps.py
    wide = embedder_of(scorer).preprocess
    assert (wide.resize_mode, wide.fill, wide.size) == ("longest", 0, (56, 56))


def test_scorers_of_the_same_weights_share_one_network_and_one_forward(
    weights: Path, context: BuildContext, suite: SuiteImages
) -> None:
    first, second = built(weights, context), built(weights, context)
    assert embedder_of(first) is embedder_of(second)
    with forwards_of(first) as forwards:
        assert torch.equal(first.score(suite), second.score(suite))
    assert sum(forwards) == len(suite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": None}, "does not hold a CLIP ViT-H/14: expected visual.proj with 2 dimensions"),
        ({"visual.conv1.weight": torch.ones(1024, 3, 14, 14)}, "holds another CLIP than ViT-H/14: .*got 1024 and 128"),
        ({"visual.ln_post.bias": None}, r"does not fit a CLIP ViT-H/14 \(missing "),
        ({"score_predictor.weight": torch.ones(1)}, r"does not fit a CLIP ViT-H/14 \(unexpected "),
    ],
)
def test_a_file_of_something_else_gets_one_line(
    change: dict[str, torch.Tensor | None], message: str, weights: Path, context: BuildContext, tmp_path: Path
) -> None:
    state = torch.load(weights, weights_only=True)["state_dict"] | change
    torch.save({"state_dict": {name: value for name, value in state.items() if value is not None}}, tmp_path / "w.pt")
    with pytest.raises(WrongWeightsError, match=message) as caught:
        built(tmp_path / "w.pt", context)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_in_seconds(
    context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(
        MissingWeightsError, match=r"HPS v2.1 \(HPS_v2.1_compressed.pt\) .*xswu/HPSv2, .*option 'weights'"
    ):
        registry.build("hps", registry.parse_settings("hps", {}, tmp_path), context)
    with pytest.raises(MissingWeightsError, match=r"no file at .*none.pt, named by option 'weights'"):
        built(tmp_path / "none.pt", context)
    assert time.monotonic() - began < 8
