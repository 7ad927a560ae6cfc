"""LoRA compatibility on the demo: merges ordered by how well a LoRA from a third fine-tune works on top of them.

    python benchmarks/lora_compatibility.py [--trials 8] [--steps 100] [--seed 0]

The third model is parent A, trained further on the demo's pictures in inverted colours, captioned "..., inverted". The
difference from A becomes a LoRA of rank 16 as by `mergetune lora extract`. A study renders 8 prompts with it on top and
the same 8 without: `lora_compatibility` compares the first with the inverted pictures, `by_words` with their prompts,
`clip_score` the second with theirs. At the end a merge is hashed before its renders and after.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import torch
from fidelity import search
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor

import studies
from optimizer.merging.files.checkpoint import Checkpoint, component_of
from optimizer.merging.files.layout import live_views
from optimizer.merging.lora.extract import extract, write_lora
from optimizer.runtime.setup import Runtime
from optimizer.trial.stored_scores import trial_scores
from scorers.images import read_rgb
from search_spaces.blocks import Architecture
from studies.records.stored_trials import load_trials
from studies.spec.study import StudySpec, load_spec

DEMO = Path(studies.__file__).parent / "demo"
PARENT = DEMO / "animals.safetensors"
RANK = 16
SHOWN = ("lion", "fox", "penguin", "frog", "pizza", "banana", "carrot", "doughnut")
SCORERS = ("lora_compatibility", "by_words", "clip_score")


# ------------------------------------------------------------------------------------ the third model


def invert_references(folder: Path) -> list[str]:
    """Write the demo's pictures in inverted colours to a folder, and return their captions in its order."""
    folder.mkdir()
    names = sorted(path.stem for path in (DEMO / "reference").glob("*.png"))
    for name in names:
        with Image.open(DEMO / "reference" / f"{name}.png") as file:
            ImageOps.invert(file.convert("RGB")).save(folder / f"{name}.png")
    return [f"an emoji of a {name.replace('-', ' ')}, inverted" for name in names]


def fine_tune(folder: Path, captions: list[str], target: Path, steps: int) -> None:
    """Train parent A further on the pictures of a folder, and write it as a checkpoint."""
    sys.path.insert(0, str(DEMO / "training"))
    import train  # type: ignore[import-not-found]

    tensors = load_file(PARENT)
    model, vae = train.Diffuser(), train.new_vae()
    own = dict(model.named_parameters())
    names = {key: live_name(key, tensor, own) for key, tensor in tensors.items()}
    with torch.no_grad():
        for key, name in names.items():
            if name is not None:
                own[name].copy_(tensors[key].view(own[name].shape))
        vae_own = dict(vae.named_parameters())
        for key, tensor in tensors.items():
            for view in live_views(key, Architecture.SD15, tensor.ndim):
                if view.component == "vae":
                    vae_own[view.name].copy_(tensor.view(vae_own[view.name].shape))
    paths = sorted(folder.glob("*.png"))
    pictures = torch.stack([read_rgb(path).float() / 127.5 - 1 for path in paths])
    latents = train.encode_mirrored(vae.eval().requires_grad_(requires_grad=False), pictures)
    work = target.parent
    train.train_diffuser(
        model, latents, train.tokenize(captions), name="trained", steps=steps, rate=1e-3, seed=8, work=work
    )
    trained = load_file(work / "trained.safetensors")
    changed = {key: trained[name].view(tensors[key].shape).half() for key, name in names.items() if name is not None}
    save_file(tensors | changed, target, metadata={"format": "pt"})


def live_name(key: str, tensor: Tensor, own: dict[str, torch.nn.Parameter]) -> str | None:
    """Return what the trained pair calls a tensor of U-Net or text encoder; None for those of the VAE."""
    for view in live_views(key, Architecture.SD15, tensor.ndim):
        if view.component == "unet":
            return f"unet.{view.name}"
        if view.component == "text_encoder":
            name = f"text.{view.name}"
            return name if name in own else f"text.{view.name.removeprefix('text_model.')}"
    return None


# -------------------------------------------------------------------------------------------- the study


def spec_of(folder: Path, trials: int, seed: int) -> StudySpec:
    """Return the demo's spec with eight prompts with the LoRA on top and eight without."""
    demo = load_spec(DEMO / "demo.yaml").model_dump(mode="json")
    clip = demo["scorers"]["clip_score"]
    selected = [f"an emoji of a {name}" for name in SHOWN]
    with_lora = [{"prompt": f"{each}, inverted <lora:inverted:1>", "without": ["clip_score"]} for each in selected]
    scorers = {
        "clip_score": clip,
        "by_words": {"kind": "lora_compatibility", "clip": clip["clip"]},
        "lora_compatibility": {
            "kind": "lora_compatibility",
            "reference": str(folder / "inverted"),
            "clip": clip["clip"],
        },
    }
    return StudySpec.model_validate(
        demo
        | {
            "study": "loras",
            "suite": demo["suite"]
            | {
                "prompts": [*with_lora, *({"prompt": each} for each in selected)],
                "seeds": [1],
                "steps": 10,
                "lora_folder": str(folder / "loras"),
            },
            "scorers": scorers,
            "objective": {"lora_compatibility": {"weight": 1}},
            "budget": {"trials": trials},
            "sampler": demo["sampler"] | {"seed": seed},
            "final": {"top": 0},
            "render": demo["render"] | {"keep": "none"},
        }
    )


def digests(runtime: Runtime) -> dict[str, str]:
    """Return the sha256 of all live values of U-Net and text encoder."""
    found = {"unet": hashlib.sha256(), "text_encoder": hashlib.sha256()}
    for key, tensor in runtime.evaluator.resident.live_tensors().items():
        component = component_of(key, Architecture.SD15)
        if component in found:
            found[component].update(tensor.contiguous().numpy().tobytes())
    return {component: digest.hexdigest() for component, digest in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="of training of the third model")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = invert_references(folder / "inverted")
        third = folder / "third.safetensors"
        fine_tune(folder / "inverted", captions, third, arguments.steps)
        lora = extract(Checkpoint.open(PARENT), Checkpoint.open(third), RANK)
        (folder / "loras").mkdir()
        write_lora(folder / "loras" / "inverted.safetensors", lora, "kohya", "inverted")
        print(f"LoRA of rank {RANK}: {lora.overall.kept_share:.1%} of the difference, squared", flush=True)
        records, runtime = search(folder, spec_of(folder, arguments.trials, arguments.seed))
        rows = [(trial, trial_scores(records, trial).means) for trial in load_trials(records)]
        print(f"\n| merge | {' | '.join(SCORERS)} |\n|---|{'---|' * len(SCORERS)}")
        for trial, means in sorted(rows, key=lambda row: -row[1]["lora_compatibility"]):
            print(f"| {trial.name} | {' | '.join(f'{means[each]:.2f}' for each in SCORERS)} |")
        best = max(rows, key=lambda row: row[1]["lora_compatibility"])[0]
        runtime.evaluator.resident.merge(best.recipe)
        before = digests(runtime)
        runtime.evaluator.evaluate(best.recipe)
        after = digests(runtime)
        print(f"\nlive values before the renders of {best.name} and after, sha256:")
        for component, digest in before.items():
            equal = "equal" if digest == after[component] else "DIFFERENT"
            print(f"{component}: {digest[:16]} and {after[component][:16]}: {equal}")


if __name__ == "__main__":
    main()
