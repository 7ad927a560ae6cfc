"""The hardware and libraries of this machine, as far as the exact pixels of a render depend on them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import psutil
import torch

from optimizer.system.nvidia_driver import driver_version

CPU_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")

# Field of a machine's description that is not always there:
VARIATION_FIELD = "variation"  # grey levels between two renders of one item, if the machine is not deterministic


def machine_description(device: torch.device, variation: float = 0.0) -> dict[str, str]:
    """Describe what the exact pixels of a render depend on beyond the recipe.

    Args:
        variation: how far apart two renders of one item are on this machine, in grey levels.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    instructions = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    libraries = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    settings = {name: os.environ[name] for name in CPU_SETTINGS if name in os.environ}
    facts = {"device": name, "cpu": instructions, "threads": str(torch.get_num_threads()), **libraries, **settings}
    facts |= _cuda_description(device) if device.type == "cuda" else {}
    return facts | ({VARIATION_FIELD: f"{variation:.2g}"} if variation else {})


def _cuda_description(device: torch.device) -> dict[str, str]:
    """Describe what the choice of CUDA kernels and their code depend on."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "capability": f"{major}.{minor}",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "driver": driver_version() or "unknown",
    }


def device_kind(device: torch.device) -> str:
    """Return the device's name and memory.

    Devices of one kind can render the same number of images at once.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return f"{device.type}, {psutil.virtual_memory().total / 1e9:.0f} GB"
