"""Turn the output of train.py into the files that the demo ships, in Stable Diffusion 1.5's own key layout.

    python studies/demo/training/assemble.py --emoji PACKAGE --work WORK

Writes these files beside the demo's spec: animals.safetensors and foods.safetensors (the parents, fp16),
clip.safetensors with tiny-clip.json (open_clip), features.safetensors (timm), and reference/*.png (the pictures that
the parents learned).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from layouts import read_layout  # noqa: E402 - the repository's list of SD1.5's keys
from train import CLIP_CONFIG, read_picture  # noqa: E402
from words import ANIMALS, FOODS  # noqa: E402

from optimizer.merging.files.layout import live_views  # noqa: E402
from search_spaces.blocks import Architecture  # noqa: E402

DEMO = Path(__file__).resolve().parents[1]


def to_checkpoint(diffuser: dict[str, Tensor], vae: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert live parameters to the names and shapes of a Stable Diffusion 1.5 file, fp16."""
    live = {("vae", name): tensor for name, tensor in vae.items()}
    for name, tensor in diffuser.items():
        component, _, rest = name.partition(".")
        if component == "unet":
            live["unet", rest] = tensor
        else:
            live["text_encoder", "text_model." + rest.removeprefix("text_model.")] = tensor
    tensors = {}
    for entry in read_layout("sd15"):
        for view in live_views(entry.key, Architecture.SD15, len(entry.shape)):
            tensor = live.pop((view.component, view.name), None)
            if tensor is not None:  # smaller models have fewer layers than the full list
                wide = tensor[:, :, None, None] if view.reading == "linear" else tensor
                tensors[entry.key] = wide.to(torch.float16).contiguous()
    if live:
        raise SystemExit(f"no file key for {next(iter(live))}")
    return tensors


def to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert all floating-point tensors to float16."""
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def main() -> None:
    """Write the demo's files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    work: Path = options.work
    vae = load_file(work / "vae.safetensors")
    for name in ("animals", "foods"):
        tensors = to_checkpoint(load_file(work / f"{name}.safetensors"), vae)
        save_file(tensors, DEMO / f"{name}.safetensors", metadata={"format": "pt"})
    save_file(to_half(load_file(work / "clip.safetensors")), DEMO / "clip.safetensors")
    (DEMO / "tiny-clip.json").write_text(json.dumps(CLIP_CONFIG, indent=2) + "\n")
    save_file(to_half(load_file(work / "features.safetensors")), DEMO / "features.safetensors")
    reference = DEMO / "reference"
    reference.mkdir(exist_ok=True)
    for name, code in (ANIMALS | FOODS).items():
        pixels = ((read_picture(options.emoji, code) + 1) * 127.5).round().to(torch.uint8)
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.save(reference / f"{name.replace(' ', '-')}.png", optimize=True)
    for path in sorted(DEMO.glob("*.safetensors")):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
