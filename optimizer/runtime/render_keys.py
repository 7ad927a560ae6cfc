"""A digest of everything beside the checkpoint that shapes the renders of a suite, for renders that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from basics.digests import json_digest
from studies.records.stored_studies import software_versions
from studies.spec.fingerprints import Hash, suite_fingerprints, vae_fingerprint
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings

BESIDE_PIXELS: Final = frozenset({"keep", "degenerate_limit", "cuda_graphs"})  # settings that change no pixel


def key_of_renders(
    spec: StudySpec, suite: SuiteSettings, device: torch.device, hashed: Hash, vae: Path | None = None
) -> str:
    """Return the digest.

    Args:
        suite: of the spec: its own, or that of its final.
        hashed: returns the sha256 of a file.
        vae: that replaces the checkpoint's own.
    """
    shaping: dict[str, Any] = {
        "suite": suite.digest,
        "models": [suite.prediction, suite.zero_snr, suite.shift],
        "beside": suite_fingerprints(spec, hashed),
        "vae": None if vae is None else vae_fingerprint(vae, hashed),
        "render": spec.render.model_dump(mode="json", exclude=set(BESIDE_PIXELS)) | {"device": device.type},
        "dtype": spec.export.dtype,
        "software": software_versions(),
    }
    return json_digest(shaping)
