"""Write a study at true size with random weights to a folder: two checkpoints, a CLIP and a spec.

    python benchmarks/gpu/full_size.py FOLDER [--layout sd15|sdxl] [--images 16] [--steps 25] [--size 1024] [--small]

Large files that exist are reused. `--small` writes small checkpoints with the same keys instead, and uses the demo's
CLIP, to test that all of it runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import open_clip
import yaml
from safetensors.torch import save_file

import studies

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from checkpoints import write_checkpoint
from synthetic import write_synthetic

CLIP = "ViT-L-14"  # the network most often used for this score, in float32
DEMO = Path(studies.__file__).parent / "demo"


def write_models(folder: Path, layout: str, *, small: bool) -> dict[str, object]:
    """Write the checkpoints `LAYOUT-A` and `LAYOUT-B` and a CLIP; return the CLIP's settings for the spec.

    Large files that exist are reused.
    """
    for seed, letter in enumerate("AB"):
        path = folder / f"{layout}-{letter}.safetensors"
        if small:
            write_checkpoint(path, layout, seed)
        elif not path.exists():
            write_synthetic(path, layout, seed)
    if small:
        return {"model": "tiny-clip", "pretrained": str(DEMO / "clip.safetensors"), "config_dir": str(DEMO)}
    clip = folder / "clip.safetensors"
    if not clip.exists():
        save_file(open_clip.create_model(CLIP, pretrained=None).state_dict(), clip)
    return {"model": CLIP, "pretrained": str(clip), "trained_as": "laion2b_s32b_b82k"}


def write_study(folder: Path, options: argparse.Namespace) -> Path:
    """Write the spec and, beside it, its models; return the spec's path."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = write_models(folder, options.layout, small=options.small)
    size = 64 if options.small else options.size
    spec = {
        "study": f"{options.layout}-full-size",
        "parents": [f"{options.layout}-A.safetensors", f"{options.layout}-B.safetensors"],
        "method": "weighted_sum",
        "space": {"granularity": "blocks"},
        "suite": {
            "prompts": [f"a photograph of {index + 1} apples" for index in range(options.images)],
            "seeds": [1],
            "sizes": [size],
            "steps": 2 if options.small else options.steps,
        },
        "scorers": {"clip_score": {"clip": clip}},
        "objective": {"clip_score": {"weight": 1}},
        "budget": {"trials": 4},  # trial.py replaces it
        "sampler": {"name": "random", "seed": 0},
        "final": {"top": 0},
        "render": {"degenerate_limit": options.images},  # random weights: all images may be degenerate
    }
    path = folder / f"{options.layout}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", choices=("sd15", "sdxl"), default="sdxl")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--size", type=int, default=1024, help="side of the images in pixels")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    print(write_study(options.folder, options))


if __name__ == "__main__":
    main()
