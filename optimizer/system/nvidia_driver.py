"""The version of NVIDIA's driver, which torch does not report."""

from __future__ import annotations

import ctypes
import os

LIBRARY = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"  # NVML comes with the driver
MOST_BYTES = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def driver_version() -> str | None:
    """Return the version, as `580.65.06`, from NVML; None where there is no NVML, or it does not answer."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(MOST_BYTES)
    failed = nvml.nvmlSystemGetDriverVersion(text, MOST_BYTES)
    nvml.nvmlShutdown()
    return None if failed else text.value.decode()
