"""Mapping between file keys and live parameters, for every family of models: see optimizer/families."""

from __future__ import annotations

from optimizer.families.registry import model_family
from optimizer.families.views import THIRDS, Component, LiveView, Reading, StoredPart
from search_spaces.blocks import Architecture

__all__ = ["THIRDS", "Component", "LiveView", "Reading", "StoredPart", "is_live", "live_views", "stored_part"]


def live_views(key: str, architecture: Architecture, rank: int) -> tuple[LiveView, ...]:
    """Return the live parameters that a stored tensor holds, as views of it.

    Args:
        key: name in the checkpoint file.
        rank: number of dimensions of the stored tensor.

    Returns:
        No view for tensors that no live model has (`position_ids`, `logit_scale`, CLIP-L's projection, markers, EMA
        copies), three for a fused attention projection, one otherwise.
    """
    return model_family(architecture).live_views(key, rank)


def stored_part(component: Component, name: str, architecture: Architecture, rank: int) -> StoredPart | None:
    """Return where a single file stores a parameter of diffusers' or transformers' models; inverts `live_views`.

    Args:
        name: as these libraries save it; the older names of the VAE's attention (`query`, `proj_attn`) and CLIP
            names without `text_model.` are accepted too.
        rank: number of dimensions of the parameter.

    Returns:
        None for a name that no model of the family has.
    """
    return model_family(architecture).stored_part(component, name, rank)


def is_live(key: str, architecture: Architecture, rank: int) -> bool:
    """Return whether a live model has this tensor of a file, or parts of it.

    Args:
        key: name in the checkpoint file.
        rank: number of dimensions of the stored tensor.
    """
    family = model_family(architecture)
    parts = (family.stored_part(view.component, view.name, rank) for view in family.live_views(key, rank))
    return any(part is not None and part.key == key for part in parts)
