"""Train the demo's checkpoints from scratch: two specialised parents, a CLIP and a feature network.

    python studies/demo/training/train.py --emoji PACKAGE --work WORK [STAGE ...]

PACKAGE is the unpacked npm package `emoji-datasource-google` 16.0.0 (Noto emoji, Apache-2.0).
Stages, in order; each reads the output of earlier ones in WORK and can be repeated alone:

    vae          four-level autoencoder, factor 8, as in Stable Diffusion 1
    rough        text encoder and U-Net on every picture, mirrored and shifted in 16 ways
    base         the same network on every picture and its mirror image only: sharper
    animals      parent A: the base fine-tuned on one half, so that it forgets the other
    foods        parent B: the same with the other half
    clip         a small open_clip model on the same pictures and captions
    features     a small timm network that classifies emoji by subcategory

`assemble.py` beside this file turns WORK into the files that the demo ships. All stages together take about 75 minutes
on two cores; every stage is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import open_clip
import timm
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel
from words import ANIMALS, FOODS, caption

SIZE = 64
SCALING = 0.18215  # Stable Diffusion 1 multiplies latents by this; fold_scale adapts ours to it
VAE_WIDTHS = (32, 64, 64, 64)
UNET_WIDTHS = (32, 64, 96, 96)
TEXT_WIDTH = 32
CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
FEATURE_NETWORK = "test_resnet"


# ------------------------------------------------------------------------------------- pictures


def read_picture(package: Path, code: str) -> Tensor:
    """Read one emoji on white: [3, 64, 64], float32 in -1..1."""
    with Image.open(package / "img" / "google" / "64" / f"{code}.png") as file:
        rgba = file.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    data = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return data.view(SIZE, SIZE, 3).permute(2, 0, 1).float() / 127.5 - 1


def read_words(package: Path, words: dict[str, str]) -> Tensor:
    """Read the emoji of all words: [n, 3, 64, 64], float32 in -1..1."""
    return torch.stack([read_picture(package, code) for code in words.values()])


def shift(pictures: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Move each picture by up to `limit` pixels, and mirror it half of the time."""
    padded = F.pad(pictures, (limit,) * 4, value=1.0)
    moved = []
    for picture in padded:
        x, y = torch.randint(0, 2 * limit + 1, (2,), generator=generator).tolist()
        piece = picture[:, y : y + SIZE, x : x + SIZE]
        mirror = torch.rand((), generator=generator) < 0.5
        moved.append(piece.flip(-1) if mirror else piece)
    return torch.stack(moved)


class Progress:
    """A progress report: the mean loss every `every` steps, with the seconds left."""

    def __init__(self, stage: str, steps: int, every: int = 100) -> None:
        self.stage, self.steps, self.every = stage, steps, every
        self.start, self.losses = time.time(), list[float]()

    def step(self, index: int, loss: Tensor) -> None:
        self.losses.append(float(loss))
        if (index + 1) % self.every == 0:
            mean = sum(self.losses) / len(self.losses)
            left = (time.time() - self.start) / (index + 1) * (self.steps - index - 1)
            print(f"{self.stage} {index + 1}/{self.steps} loss {mean:.4f}, {left:.0f} s left", flush=True)
            self.losses.clear()


def cosine(step: int, steps: int, hold: int = 100) -> float:
    """Return the learning rate's factor: 100 steps of warm-up, 1 until `hold`, then half a cosine down to 0.02."""
    if step < hold:
        return min(1.0, (step + 1) / 100)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - hold) / max(1, steps - hold)))


# ------------------------------------------------------------------------------------------- vae


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=SIZE,
        scaling_factor=SCALING,
    )


def train_vae(pictures: Tensor, work: Path, steps: int) -> None:
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    vae = new_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine(s, steps))
    progress = Progress("vae", steps)
    for index in range(steps):
        pick = torch.randint(0, len(pictures), (20,), generator=generator)
        batch = shift(pictures[pick], 3, generator).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(batch).latent_dist
        out = vae.decode(posterior.sample()).sample
        # L1 alone gets colours wrong at this size; a coarse L2 term corrects them.
        coarse = F.mse_loss(F.avg_pool2d(out, 8), F.avg_pool2d(batch, 8))
        edges = (out.diff(dim=-1) - batch.diff(dim=-1)).abs().mean()
        edges = edges + (out.diff(dim=-2) - batch.diff(dim=-2)).abs().mean()
        loss = F.l1_loss(out, batch) + 2 * coarse + 0.5 * edges + 1e-5 * posterior.kl().mean() / 64
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.step(index, loss.detach())
    fold_scale(vae, pictures)
    save_file(vae.to(memory_format=torch.contiguous_format).state_dict(), work / "vae.safetensors")


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold each latent channel's mean and spread into the 1x1 convolutions around the latent.

    Afterwards latents times 0.18215 have mean 0 and standard deviation 1, as every Stable Diffusion program expects, so
    the checkpoint needs no configuration of its own.
    """
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(20)])
    centre = means.mean(dim=(0, 2, 3))
    spread = means.std(dim=(0, 2, 3)) * SCALING
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * centre).sum(1)
    vae.post_quant_conv.weight *= spread[None, :, None, None]
    vae.quant_conv.weight[:4] /= spread[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - centre) / spread
    vae.quant_conv.bias[4:] -= 2 * spread.log()


def load_vae(work: Path) -> AutoencoderKL:
    vae = new_vae()
    vae.load_state_dict(load_file(work / "vae.safetensors"))
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_means(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return scaled latents: [n, 4, 8, 8]."""
    return torch.cat([vae.encode(part).latent_dist.mean * SCALING for part in pictures.split(35)])


def encode_mirrored(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return scaled latents of each picture and its mirror image: [n, 2, 4, 8, 8]."""
    return torch.stack([encode_means(vae, pictures), encode_means(vae, pictures.flip(-1))], dim=1)


def encode_shifted(vae: AutoencoderKL, pictures: Tensor, variants: int) -> Tensor:
    """Return scaled latents of `variants` shifted and mirrored copies: [n, variants, 4, 8, 8]."""
    generator = torch.Generator().manual_seed(2)
    return torch.stack([encode_means(vae, shift(pictures, 2, generator)) for _ in range(variants)], dim=1)


# ------------------------------------------------------------------------------- base, specialists


class Diffuser(nn.Module):
    """The trained pair: CLIP text model and U-Net, in Stable Diffusion 1.5's structure."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=1,
                max_position_embeddings=77,
                hidden_act="quick_gelu",
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // 8,
            block_out_channels=UNET_WIDTHS,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
            norm_num_groups=32,
        )

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        context = self.text(input_ids=tokens).last_hidden_state
        return self.unet(noisy, times, encoder_hidden_states=context).sample


def tokenize(texts: list[str]) -> Tensor:
    """Return token numbers, padded with the end token as Stable Diffusion 1 does: [n, 77] int64."""
    tokens = open_clip.SimpleTokenizer()(texts)
    ends = tokens.argmax(dim=1, keepdim=True)
    return torch.where(torch.arange(77)[None] > ends, 49407, tokens)


def train_diffuser(
    model: Diffuser,
    latents: Tensor,
    tokens: Tensor,
    *,
    name: str,
    steps: int,
    rate: float,
    seed: int,
    work: Path,
    hold: int = 100,
) -> None:
    """Train to predict epsilon, and save the exponential moving average of the weights."""
    generator = torch.Generator().manual_seed(seed)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    empty = tokenize([""])[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine(s, steps, hold))
    mean = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998 if steps > 2000 else 0.99)
    )
    progress = Progress(name, steps)
    for index in range(steps):
        pick = torch.randint(0, len(latents), (48,), generator=generator)
        variant = torch.randint(0, latents.shape[1], (48,), generator=generator)
        clean = latents[pick, variant]
        words = tokens[pick].clone()
        words[torch.rand(48, generator=generator) < 0.1] = empty
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (48,), generator=generator)
        out = model(scheduler.add_noise(clean, noise, times), times, words)
        loss = F.mse_loss(out, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(model)
        progress.step(index, loss.detach())
        if (index + 1) % 1000 == 0:
            save_file(mean.module.state_dict(), work / f"{name}.safetensors")
    save_file(mean.module.state_dict(), work / f"{name}.safetensors")


def load_diffuser(work: Path, name: str) -> Diffuser:
    model = Diffuser()
    model.load_state_dict(load_file(work / f"{name}.safetensors"))
    return model


# ------------------------------------------------------------------------------------------- clip


@torch.no_grad()
def spoil(pictures: Tensor, vae: AutoencoderKL, generator: torch.Generator) -> Tensor:
    """Make pictures look like renders: pass some through the autoencoder, blur some, add noise, change colours."""
    pictures = shift(pictures, 4, generator)
    decoded = torch.rand(len(pictures), generator=generator) < 0.4
    if decoded.any():
        pictures[decoded] = vae(pictures[decoded]).sample.clamp(-1, 1)
    blur = torch.rand(len(pictures), generator=generator) < 0.3
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pictures = torch.where(blur[:, None, None, None], soft, pictures)
    gain = 1 + 0.15 * torch.randn((len(pictures), 3, 1, 1), generator=generator)
    grain = 0.1 * torch.rand((len(pictures), 1, 1, 1), generator=generator)
    noise = torch.randn(pictures.shape, generator=generator)
    return (1 - (1 - pictures) * gain + grain * noise).clamp(-1, 1)


def train_clip(pictures: Tensor, texts: list[str], vae: AutoencoderKL, work: Path, steps: int) -> None:
    """Train a CLIP contrastively; pixels are normalised as in OpenAI's CLIP."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    model = open_clip.CLIP(**CLIP_CONFIG)  # type: ignore[arg-type]
    tokens = open_clip.SimpleTokenizer()(texts)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine(s, steps))
    progress = Progress("clip", steps)
    for index in range(steps):
        pick = torch.randperm(len(pictures), generator=generator)[:70]
        batch = (spoil(pictures[pick], vae, generator) + 1) / 2
        image, text, scale = model((batch - mean) / std, tokens[pick])[:3]
        logits = scale.clamp(max=50) * image @ text.T
        target = torch.arange(len(pick))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.step(index, loss.detach())
    save_file(model.state_dict(), work / "clip.safetensors")


# --------------------------------------------------------------------------------------- features


def train_features(package: Path, vae: AutoencoderKL, work: Path, steps: int) -> None:
    """Train a classifier of all emoji's Unicode subcategories; the set score uses its pooled features."""
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(4)
    emoji = [entry for entry in json.loads((package / "emoji.json").read_text()) if entry["has_img_google"]]
    names = sorted({entry["subcategory"] for entry in emoji})
    pictures = torch.stack([read_picture(package, Path(entry["image"]).stem) for entry in emoji])
    labels = torch.tensor([names.index(entry["subcategory"]) for entry in emoji])
    model = timm.create_model(FEATURE_NETWORK, pretrained=False, num_classes=len(names))
    mean = torch.tensor(model.default_cfg["mean"])[:, None, None]
    std = torch.tensor(model.default_cfg["std"])[:, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine(s, steps))
    progress = Progress("features", steps)
    for index in range(steps):
        pick = torch.randperm(len(pictures), generator=generator)[:64]
        batch = (spoil(pictures[pick], vae, generator) + 1) / 2
        loss = F.cross_entropy(model((batch - mean) / std), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.step(index, loss.detach())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    save_file(state, work / "features.safetensors")


# ------------------------------------------------------------------------------------------- main

STAGES = ("vae", "rough", "base", "animals", "foods", "clip", "features")


def main() -> None:
    """Train the stages that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=STAGES, default=[], metavar="STAGE")
    parser.add_argument("--emoji", type=Path, required=True, help="unpacked emoji-datasource-google")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--vae-steps", type=int, default=2600)
    parser.add_argument("--rough-steps", type=int, default=2000)
    parser.add_argument("--base-steps", type=int, default=5000)
    parser.add_argument("--specialist-steps", type=int, default=1000)
    parser.add_argument("--clip-steps", type=int, default=1500)
    parser.add_argument("--feature-steps", type=int, default=800)
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    words = ANIMALS | FOODS
    pictures = read_words(options.emoji, words)
    texts = [caption(name) for name in words]
    for stage in options.stages or STAGES:
        if stage == "vae":
            train_vae(pictures, work, options.vae_steps)
            continue
        vae = load_vae(work)
        if stage == "clip":
            train_clip(pictures, texts, vae, work, options.clip_steps)
            continue
        if stage == "features":
            train_features(options.emoji, vae, work, options.feature_steps)
            continue
        tokens = tokenize(texts)
        if stage == "rough":
            torch.manual_seed(5)
            latents = encode_shifted(vae, pictures, variants=16)
            train_diffuser(
                Diffuser(), latents, tokens, name="rough", steps=options.rough_steps, rate=1e-3, seed=5, work=work
            )
            continue
        latents = encode_mirrored(vae, pictures)
        if stage == "base":
            start = load_diffuser(work, "rough")
            train_diffuser(start, latents, tokens, name="base", steps=options.base_steps, rate=1e-3, seed=9, work=work)
            continue
        half = slice(0, len(ANIMALS)) if stage == "animals" else slice(len(ANIMALS), None)
        train_diffuser(
            load_diffuser(work, "base"),
            latents[half],
            tokens[half],
            name=stage,
            steps=options.specialist_steps,
            rate=1e-3,  # high for a long time, on purpose: each parent must forget what it no longer sees
            hold=options.specialist_steps * 7 // 10,
            seed=6 if stage == "animals" else 7,
            work=work,
        )


if __name__ == "__main__":
    sys.exit(main())
