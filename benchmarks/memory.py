"""The anonymous memory of a process, which excludes the pages of mapped files."""

from __future__ import annotations

from pathlib import Path


def anonymous_bytes() -> int:
    """Return RssAnon of this process in bytes (Linux only)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: this measurement needs Linux")
