"""Which built-in scorers can be used on this machine as it is: nothing is downloaded, and nobody is asked."""

from __future__ import annotations

from pathlib import Path

from scorers import weights
from scorers.config import ClipModelSettings

PIXEL_KINDS = ("sharpness", "contrast", "colourfulness", "clipping")


def kinds_here(cache_dir: Path) -> frozenset[str]:
    """Return the kinds of built-in scorers whose usual weights are on this machine.

    Of `fid` and `kid` the network is looked for; the reference images are the user's. Kinds without usual weights of
    their own (`frechet`, `kernel`) are never among them.

    Args:
        cache_dir: folder of downloaded files.
    """
    from scorers.clip import has_weights_here

    found = set(PIXEL_KINDS)
    if has_weights_here(ClipModelSettings()):
        found |= {"clip_score", "clip_iqa"}
        if (cache_dir / weights.AESTHETIC_V2.name).is_file():
            found.add("aesthetic")
    if (cache_dir / weights.FID_INCEPTION.name).is_file():
        found |= {"fid", "kid"}
    return frozenset(found)
