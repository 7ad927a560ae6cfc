"""The digest of a feature network, by which features of reference images are cached."""

from __future__ import annotations

import hashlib

#: Must change whenever the preprocessing of images changes, so that features cached by older code are not reused.
_FEATURES_VERSION = "1"


def digest_of(*parts: str) -> str:
    """Return a digest of what features depend on: the network, its weights and its preprocessing."""
    return hashlib.sha256("\0".join((_FEATURES_VERSION, *parts)).encode()).hexdigest()
