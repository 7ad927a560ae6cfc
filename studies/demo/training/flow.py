"""Fine-tune the U-Net of the demo's `animals` to follow a flow: a small model for the tests of `prediction: flow`.

    python studies/demo/training/flow.py -o tests/data/flow.safetensors

The model learns n - x0 for x = (1 - sigma) x0 + sigma n, and is given 1000 sigma as its time; sigma is drawn uniformly.
Text encoder and VAE stay the demo's own, and so do the U-Net's blocks at a single latent cell, to keep the file small:
it holds only what has changed, fp16, under the keys of the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from assemble import to_checkpoint  # noqa: E402
from train import SCALING, Diffuser, Progress, cosine, encode_mirrored, new_vae, tokenize  # noqa: E402
from words import ANIMALS, caption  # noqa: E402

from optimizer.merging.files.layout import live_views  # noqa: E402
from search_spaces.blocks import Architecture  # noqa: E402

DEMO = Path(__file__).resolve().parents[1]
BATCH = 32
STEPS_OF_TIME = 1000
# Blocks that work on one latent cell: input 10 and 11, the middle, output 0 to 2.
FROZEN = ("down_blocks.3.", "mid_block.", "up_blocks.0.resnets.")


def read_reference(name: str) -> Tensor:
    """Read a picture that the demo's models learned: [3, 64, 64], float32 in -1..1."""
    with Image.open(DEMO / "reference" / f"{name.replace(' ', '-')}.png") as file:
        data = torch.frombuffer(bytearray(file.convert("RGB").tobytes()), dtype=torch.uint8)
        return data.view(file.height, file.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def load_demo(model: nn.Module, component: str, tensors: dict[str, Tensor]) -> None:
    """Fill a model with its component's tensors of a checkpoint."""
    state = {}
    for key, tensor in tensors.items():
        for view in live_views(key, Architecture.SD15, tensor.dim()):
            if view.component == component:
                state[view.name] = tensor.flatten(1) if view.reading == "linear" else tensor
    own = model.state_dict()
    prefix = "" if next(iter(own)) in state else "text_model."
    model.load_state_dict({name: state[prefix + name].float() for name in own})


def train(model: Diffuser, latents: Tensor, tokens: Tensor, steps: int) -> nn.Module:
    """Train the U-Net to predict n - x0, and return the exponential moving average of its weights."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        texts = model.text(input_ids=torch.cat([tokens, tokenize([""])])).last_hidden_state
    for name, weights in model.unet.named_parameters():
        weights.requires_grad_(not name.startswith(FROZEN))
    trained = [weights for weights in model.unet.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
    mean = torch.optim.swa_utils.AveragedModel(
        model.unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    progress = Progress("flow", steps)
    for index in range(steps):
        pick = torch.randint(0, len(latents), (BATCH,), generator=generator)
        variant = torch.randint(0, latents.shape[1], (BATCH,), generator=generator)
        words = torch.where(torch.rand(BATCH, generator=generator) < 0.1, len(latents), pick)
        clean, noise = latents[pick, variant], torch.randn((BATCH, *latents.shape[2:]), generator=generator)
        sigma = torch.rand((BATCH, 1, 1, 1), generator=generator)
        noisy = (1 - sigma) * clean + sigma * noise
        out = model.unet(noisy, STEPS_OF_TIME * sigma.flatten(), encoder_hidden_states=texts[words]).sample
        loss = F.mse_loss(out, noise - clean)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(model.unet)
        progress.step(index, loss.detach())
    return mean.module


def main() -> None:
    """Train, and write the tensors that have changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    options = parser.parse_args()
    tensors = load_file(DEMO / "animals.safetensors")
    model, vae = Diffuser(), new_vae()
    load_demo(model.unet, "unet", tensors)
    load_demo(model.text, "text_encoder", tensors)
    load_demo(vae, "vae", tensors)
    latents = encode_mirrored(vae.eval(), torch.stack([read_reference(name) for name in ANIMALS]))
    print(f"latents: mean {latents.mean():.3f}, deviation {latents.std():.3f} (scaled by {SCALING})")
    unet = train(model, latents, tokenize([caption(name) for name in ANIMALS]), options.steps)
    found = to_checkpoint({f"unet.{name}": weights for name, weights in unet.state_dict().items()}, {})
    changed = {key: tensor for key, tensor in found.items() if not torch.equal(tensor, tensors[key])}
    save_file(changed, options.output, metadata={"format": "pt"})
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
