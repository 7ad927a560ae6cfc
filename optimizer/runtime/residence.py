"""What stays on a device and what takes turns there, decided from headers and free memory before anything is loaded.

Each step that makes room costs time, so it is taken only if the ones before it do not suffice:

    parents elsewhere    they stay in host memory or in their files (merging/engine/placement.py)
    scorers in turns     a scoring network is on the device only while it scores a trial's images
    components in turns  text encoders, U-Net and VAE are merged one after the other, each when it is needed
    smaller batches      as many images at once as fit (rendering/largest_batches.py)

Where memory is left, a GPU keeps the U-Net's kernels recorded (rendering/unet.py), which saves time. None of this
changes a score or a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.runtime.memory import MemoryEstimate

GIB = 1 << 30
SCORER_BYTES = 3 * GIB  # for scoring networks: CLIP ViT-L/14, the usual one, has 1.7 GB in float32
WORKSPACE_BYTES = GIB  # for cuDNN: on an H100, decoding 1024 x 1024 in float32 takes 0.9 GB beside the tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """The networks that take turns on the device; all others stay there."""

    scorers_in_turns: bool = False
    components_in_turns: bool = False
    cuda_graphs: bool = False  # whether there is memory to keep the U-Net's kernels recorded

    def __str__(self) -> str:
        """Name the networks that take turns."""
        if self.components_in_turns:
            return "text encoders, U-Net, VAE and scorers take turns on the device"
        if self.scorers_in_turns:
            return "the model stays on the device, scorers are loaded there while they score"
        return f"model and scorers stay on the device{', with CUDA graphs' if self.cuda_graphs else ''}"


def choose_residence(
    need: MemoryEstimate, free: int | None, *, scorers: bool = True, cuda_graphs: bool = False
) -> Residence:
    """Choose the fastest residence that fits.

    Args:
        free: free bytes of the device; None if unknown, and on the host, where nothing takes turns.
        scorers: whether scoring networks are still to be loaded.
        cuda_graphs: whether the device can record kernels, and the study wants it.
    """
    if need.on_host or free is None:
        return Residence()
    model = need.live + need.working[0] + WORKSPACE_BYTES
    with_scorers = model + (SCORER_BYTES if scorers else 0)
    return Residence(
        scorers_in_turns=scorers and free < with_scorers,
        components_in_turns=free < model,
        cuda_graphs=cuda_graphs and free >= with_scorers + need.recorded,
    )
