"""Features of a folder of reference images, cached on disk so that a worker reads them in milliseconds."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from basics.files import open_to_write, replacing, sha256_of
from scorers.errors import ReferenceImagesError
from scorers.images import list_images, read_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scorers.networks.features import FeatureNetwork

_log = logging.getLogger(__name__)
_TENSOR = "features"
_CHUNK_IMAGES = 64  # decoded at once; bounds the memory, whatever the size of the folder


def reference_features(folder: Path, network: FeatureNetwork, cache_dir: Path, *, minimum: int) -> Tensor:
    """Return the features of all images below `folder`, float32 [m, d], in the order of their paths.

    They are cached by the network's digest and the bytes of every file, so a changed picture is never served from the
    cache. If a cache file is damaged, the features are computed again.

    Raises:
        ReferenceImagesError: the folder is missing, has fewer than `minimum` images, or one cannot be read or was
            changed meanwhile.
    """
    paths = list_images(folder)
    if len(paths) < minimum:
        raise ReferenceImagesError(
            f"expected at least {minimum} reference images (png, jpg or webp), {folder} holds {len(paths)}: add images"
        )
    key = content_key(paths, network)
    cached = cache_dir / "references" / f"{key}.safetensors"
    features = read_cache(cached, count=len(paths))
    if features is None:
        features = _compute(paths, network)
        if content_key(paths, network) != key:
            raise ReferenceImagesError(f"{folder} was changed while its images were read: start again")
        write_cache(cached, features)
    return features


def content_key(paths: Sequence[Path], network: FeatureNetwork) -> str:
    """Return a hex digest of what the features depend on: the network, and the bytes and order of the files."""
    key = hashlib.sha256(network.digest.encode())
    for path in paths:
        key.update(bytes.fromhex(sha256_of(path)))
    return key.hexdigest()


def read_cache(path: Path, *, count: int) -> Tensor | None:
    """Read cached features, float32 [count, d]; None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            features: Tensor = file.get_tensor(_TENSOR)
            checksum = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        _log.warning("%s is damaged (%s) and is computed again", path, error)
        return None
    if features.ndim != 2 or len(features) != count or checksum != _checksum(features):
        _log.warning("%s is damaged (its content does not match its checksum) and is computed again", path)
        return None
    return features


def write_cache(path: Path, features: Tensor) -> None:
    """Write features to the cache. Several workers may write at once; readers see a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save({_TENSOR: features}, metadata={"sha256": _checksum(features)})
    with replacing(path) as partial, open_to_write(partial) as file:
        file.write(content)


def _compute(paths: Sequence[Path], network: FeatureNetwork) -> Tensor:
    chunks = (paths[start : start + _CHUNK_IMAGES] for start in range(0, len(paths), _CHUNK_IMAGES))
    return torch.cat([network.embed([read_rgb(path) for path in chunk]) for chunk in chunks])


def _checksum(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
