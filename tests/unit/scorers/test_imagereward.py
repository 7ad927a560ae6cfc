"""ImageReward on a small random BLIP in the published format, against BLIP's forward written out in float64."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scorer_helpers import picture
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from scorers import registry
from scorers.errors import MissingWeightsError, WrongWeightsError
from scorers.images import prepare
from scorers.preference.imagereward import ImageRewardScorer, read_tokenizer
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, torch.Tensor]

# BLIP-large with two and three attention heads instead of 16 and 12, two layers in each tower, and images of 64 pixels.
WIDTH, TEXT_WIDTH, LAYERS, HEADS, PATCH, SIZE = 128, 192, 2, {"image": 2, "text": 3}, 16, 64
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat dog in the rain oil painting of red app ##les on table , ##s ! 3"
WORDS = VOCABULARY.split()
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The names of ImageReward.pt with the shapes of a small BLIP."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, WIDTH),
        "blip.visual_encoder.pos_embed": (1, (SIZE // PATCH) ** 2 + 1, WIDTH),
        "blip.visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (len(WORDS) + 2, TEXT_WIDTH),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, TEXT_WIDTH),
    }

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    add("blip.visual_encoder.norm", WIDTH)
    add("blip.text_encoder.embeddings.LayerNorm", TEXT_WIDTH)
    for layer in range(LAYERS):
        name = f"blip.visual_encoder.blocks.{layer}"
        add(f"{name}.norm1", WIDTH)
        add(f"{name}.attn.qkv", 3 * WIDTH, WIDTH)
        add(f"{name}.attn.proj", WIDTH, WIDTH)
        add(f"{name}.norm2", WIDTH)
        add(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH)
        add(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH)
        name = f"blip.text_encoder.encoder.layer.{layer}"
        for attention, seen in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            add(f"{name}.{attention}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            add(f"{name}.{attention}.self.key", TEXT_WIDTH, seen)
            add(f"{name}.{attention}.self.value", TEXT_WIDTH, seen)
            add(f"{name}.{attention}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            add(f"{name}.{attention}.output.LayerNorm", TEXT_WIDTH)
        add(f"{name}.intermediate.dense", 4 * TEXT_WIDTH, TEXT_WIDTH)
        add(f"{name}.output.dense", TEXT_WIDTH, 4 * TEXT_WIDTH)
        add(f"{name}.output.LayerNorm", TEXT_WIDTH)
    add("blip.vision_proj", 16, WIDTH)
    add("blip.text_proj", 16, TEXT_WIDTH)
    widths = (TEXT_WIDTH, 1024, 128, 64, 16, 1)
    for index, (width, out) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        add(f"mlp.layers.{index}", out, width)
    return shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageReward.pt as it is published, a flat mapping in float32, and a small vocab.txt."""
    folder = tmp_path_factory.mktemp("imagereward")
    generator = torch.Generator().manual_seed(13)
    state: State = {}
    for name, shape in published_shapes().items():
        fan_in = max(shape[-1], 1) if len(shape) == 2 else 25
        state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
        if "norm" in name.lower() and name.endswith("weight"):
            state[name] += 1
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def state(folder: Path) -> State:
    return {name: value.double() for name, value in torch.load(folder / "ImageReward.pt", weights_only=True).items()}


def built(folder: Path, context: BuildContext, weights: str = "ImageReward.pt") -> ImageRewardScorer:
    settings = registry.parse_settings("imagereward", {"weights": weights, "vocabulary": "vocab.txt"}, folder)
    return cast("ImageRewardScorer", registry.build("imagereward", settings, context))


def linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: State, name: str, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], epsilon)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def attend(rows: tuple[torch.Tensor, ...], heads: int) -> torch.Tensor:
    """Attention of one image and prompt: rows are query [n, d], key [m, d] and value [m, d]."""
    query, key, value = (each.reshape(len(each), heads, -1).transpose(0, 1) for each in rows)
    weight = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    found: torch.Tensor = (weight @ value).transpose(0, 1).flatten(1)
    return found


def image_rows(state: State, pixels: torch.Tensor) -> torch.Tensor:
    """BLIP's image tower: pixels [3, 64, 64] -> rows [17, d]."""
    name = "blip.visual_encoder"
    weight, bias = state[f"{name}.patch_embed.proj.weight"], state[f"{name}.patch_embed.proj.bias"]
    patches = F.conv2d(pixels[None], weight, bias, stride=PATCH)[0].flatten(1).T
    x = torch.cat([state[f"{name}.cls_token"][0], patches]) + state[f"{name}.pos_embed"][0]
    for layer in range(LAYERS):
        block = f"{name}.blocks.{layer}"
        mixed = linear(state, f"{block}.attn.qkv", norm(state, f"{block}.norm1", x, 1e-6))
        x = x + linear(state, f"{block}.attn.proj", attend(mixed.chunk(3, dim=-1), HEADS["image"]))
        hidden = gelu(linear(state, f"{block}.mlp.fc1", norm(state, f"{block}.norm2", x, 1e-6)))
        x = x + linear(state, f"{block}.mlp.fc2", hidden)
    return norm(state, f"{name}.norm", x, 1e-6)


def reward(state: State, pixels: torch.Tensor, tokens: list[int]) -> float:
    """Compute the authors' score of one image, [3, 64, 64], and one prompt: its tokens without padding."""
    rows = image_rows(state, pixels)
    name = "blip.text_encoder"
    x = state[f"{name}.embeddings.word_embeddings.weight"][tokens]
    x = x + state[f"{name}.embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(state, f"{name}.embeddings.LayerNorm", x, 1e-12)
    for layer in range(LAYERS):
        block = f"{name}.encoder.layer.{layer}"
        for attention in ("attention", "crossattention"):
            seen = x if attention == "attention" else rows
            part = f"{block}.{attention}"
            query = linear(state, f"{part}.self.query", x)
            key, value = (linear(state, f"{part}.self.{each}", seen) for each in ("key", "value"))
            found = linear(state, f"{part}.output.dense", attend((query, key, value), HEADS["text"]))
            x = norm(state, f"{part}.output.LayerNorm", found + x, 1e-12)
        hidden = gelu(linear(state, f"{block}.intermediate.dense", x))
        x = norm(state, f"{block}.output.LayerNorm", linear(state, f"{block}.output.dense", hidden) + x, 1e-12)
    first = x[0]
    for index in (0, 2, 4, 6, 7):
        first = linear(state, f"mlp.layers.{index}", first)
    return (first.item() - 0.16717362830052426) / 1.0333394966054072


# Prompt -> its tokens in WORDS, by hand.
PROMPTS = {
    "a cat": "[CLS] a cat [SEP]",
    "A Dog, in the RAIN!": "[CLS] a dog , in the rain ! [SEP]",
    "": "[CLS] [SEP]",
    "oil painting of 3 red apples on a table": "[CLS] oil painting of 3 red app ##les on a table [SEP]",
    "cats zebra": "[CLS] cat ##s [UNK] [SEP]",
    "a cat " * 30: "[CLS] " + "a cat " * 16 + "a [SEP]",  # 35 tokens, as the authors cut it
}


def tokens_of(prompt: str) -> list[int]:
    return [WORDS.index(word) for word in PROMPTS[prompt].split()]


def test_a_score_is_the_authors_formula(state: State, folder: Path, context: BuildContext) -> None:
    prompts = tuple(PROMPTS)
    images = tuple(picture(seed, SIZE, SIZE) for seed in range(len(prompts)))  # its own size: nothing is resized
    scores = built(folder, context).score(SuiteImages(images=images, prompts=prompts))
    expected = [
        reward(state, (image.double() / 255 - MEAN) / STD, tokens_of(prompt))
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    assert scores.std() > 0.1


def test_image_and_prompt_both_count_and_are_not_mixed_up(folder: Path, context: BuildContext) -> None:
    """Images of several sizes go through the network in another order than that of the suite."""
    prompts = ("a cat", "a dog", "a table", "the rain")
    images = [picture(1, 64, 64), picture(2, 80, 64), picture(3, 64, 64), picture(4, 80, 64)]
    scorer = built(folder, context)
    scores = scorer.score(SuiteImages(images=tuple(images), prompts=prompts)).tolist()
    alone = [scorer.score(SuiteImages(images=(images[i],), prompts=(prompts[i],))).item() for i in range(4)]
    assert scores == pytest.approx(alone, abs=1e-4)
    swapped = scorer.score(SuiteImages(images=tuple(images), prompts=prompts[::-1])).tolist()
    assert all(abs(one - other) > 1e-3 for one, other in zip(scores, swapped, strict=True))


def test_images_are_prepared_as_the_authors_do(folder: Path, context: BuildContext, suite: SuiteImages) -> None:
    scorer = built(folder, context)
    transform = Compose([
        Resize(SIZE, interpolation=InterpolationMode.BICUBIC), CenterCrop(SIZE), ToTensor(),
        Normalize(MEAN.flatten().tolist(), STD.flatten().tolist()),
    ])  # fmt: skip
    for image in suite.images:
        theirs = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
        torch.testing.assert_close(prepare(image, scorer.preprocess), theirs, atol=0.02, rtol=0)  # a grey level apart


def test_scorers_of_the_same_weights_share_one_network_and_one_forward(
    folder: Path, context: BuildContext, suite: SuiteImages
) -> None:
    first, second = built(folder, context), built(folder, context)
    forwards: list[int] = []
    hook = first._network.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    assert torch.equal(first.score(suite), second.score(suite))
    hook.remove()
    assert sum(forwards) == len(suite)


def test_a_network_that_takes_turns_gives_the_same_scores(
    folder: Path, context: BuildContext, suite: SuiteImages
) -> None:
    turns = BuildContext(device="cpu", cache_dir=context.cache_dir, in_turns=True)
    scores = [
        built(folder, each).score(SuiteImages(images=suite.images, prompts=suite.prompts)) for each in (context, turns)
    ]
    assert torch.equal(*scores)


def test_the_tokens_of_blip_come_after_the_vocabulary(folder: Path) -> None:
    tokenizer = read_tokenizer(folder / "vocab.txt")
    assert tokenizer("a [DEC] [ENC]").input_ids == [2, 5, len(WORDS), len(WORDS) + 1, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blip.visual_encoder.pos_embed": None}, "expected blip.visual_encoder.pos_embed with 3 dimensions, got"),
        ({"mlp.layers.0.bias": None}, r"does not hold ImageReward \(missing .*mlp.0.bias"),
        ({"mlp.layers.6.weight": torch.ones(3, 3)}, r"does not hold ImageReward \(size mismatch"),
        ({"blip.text_encoder.encoder.layer.1.more": torch.ones(1)}, r"does not hold ImageReward \(unexpected "),
        ({"more": torch.ones(1)}, r"does not hold ImageReward \(unexpected .*more"),
        ({"blip.visual_encoder.patch_embed.proj.weight": torch.ones(100, 3, 16, 16)}, r"ImageReward \(size mismatch"),
        ({"blip.visual_encoder.patch_embed.proj.weight": torch.ones(129, 3, 16, 16)}, "must be divisible by num_heads"),
        ({"blip.visual_encoder.pos_embed": torch.ones(1, 0, 128)}, "does not hold ImageReward"),
    ],
)
def test_a_file_of_something_else_gets_one_line(
    change: dict[str, torch.Tensor | None], message: str, folder: Path, context: BuildContext, tmp_path: Path
) -> None:
    state = torch.load(folder / "ImageReward.pt", weights_only=True) | change
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "w.pt")
    with pytest.raises(WrongWeightsError, match=message) as caught:
        built(folder, context, str(tmp_path / "w.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ndog\n", "is not a vocabulary of BERT: expected a token on each line"),
        (b"\xff\xfe\x00", "is not a vocabulary of BERT"),
        ("\n".join([*WORDS, *"opqrst"]).encode(), r"has 31 tokens, of which .*ImageReward.pt knows 25"),
    ],
)
def test_another_vocabulary_gets_one_line(
    content: bytes, message: str, folder: Path, context: BuildContext, tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    options = {"weights": str(folder / "ImageReward.pt"), "vocabulary": "vocab.txt"}
    with pytest.raises(WrongWeightsError, match=message) as caught:
        registry.build("imagereward", registry.parse_settings("imagereward", options, tmp_path), context)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ((), r"BERT vocabulary \(vocab.txt\) .*google-bert/bert-base-uncased, .*option 'vocabulary'"),
        (("vocabulary",), r"ImageReward v1.0 \(ImageReward.pt\) .*zai-org/ImageReward, .*option 'weights'"),
    ],
)
def test_a_missing_file_is_told_in_seconds(
    named: tuple[str, ...],
    message: str,
    folder: Path,
    context: BuildContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = {"vocabulary": str(folder / "vocab.txt")} if named else {}
    began = time.monotonic()
    with pytest.raises(MissingWeightsError, match=message):
        registry.build("imagereward", registry.parse_settings("imagereward", options, tmp_path), context)
    assert time.monotonic() - began < 8
