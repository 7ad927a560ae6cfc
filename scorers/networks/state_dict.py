"""Named tensors of networks: how many layers they have, and what is wrong where they do not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_KEYS = 3


def layer_count(names: Iterable[str], prefix: str) -> int:
    """Count the layers whose number follows a prefix in the names of their tensors."""
    return len({name.removeprefix(prefix).split(".", 1)[0] for name in names if name.startswith(prefix)})


def first_finding(error: Exception) -> str:
    """Return the first finding of load_state_dict on one line, with three of its keys at most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0]
    keys = re.findall(r'"([^"]+)"', line)
    if re.match(r"(Missing|Unexpected) key", line) is None or not keys:
        return line[:300]
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f"{line.split()[0].lower()} {', '.join(keys[:_SHOWN_KEYS])}{more}"
