"""What is on a device when: decided from headers and from the memory that is free, before anything is loaded.

Each step that makes room costs time, so it is taken only when the ones before it do not make enough:

    parents leave        they stay in host memory or in their files (merging/engine/placement.py)
    scorers in turns     a scoring network comes to the device for the images of a trial, and leaves again
    components in turns  text encoders, U-Net and VAE are merged when they are needed, one after the other
    smaller batches      as few images at once as fit (rendering/batch_limits.py)

None of them changes a score or a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.runtime.memory import Need

GIB = 1 << 30
SCORER_BYTES = 3 * GIB  # of scoring networks: CLIP ViT-L/14, which most people use, has 1.7 GB in float32
WORKSPACE_BYTES = GIB  # of cuDNN: on an H100, decoding 1024 x 1024 in float32 takes 0.9 GB beside the tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """Who stays on the device, and who comes and goes."""

    scorers_in_turns: bool = False
    components_in_turns: bool = False

    def __str__(self) -> str:
        if self.components_in_turns:
            return "text encoders, U-Net, VAE and scorers take turns on the device"
        if self.scorers_in_turns:
            return "the model stays on the device, scorers come when they score"
        return "model and scorers stay on the device"


def choose_residence(need: Need, free: int | None, *, scorers: bool = True) -> Residence:
    """The fastest that fits.

    Args:
        free: bytes of the device; None where nobody can tell, and on the host, whose memory is not made room in.
        scorers: whether scoring networks are yet to be loaded.
    """
    if need.on_host or free is None:
        return Residence()
    model = need.live + need.working[0] + WORKSPACE_BYTES
    return Residence(
        scorers_in_turns=scorers and free < model + SCORER_BYTES,
        components_in_turns=free < model,
    )
