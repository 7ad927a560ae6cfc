"""Numbers that are written as percent: `70%` is 0.7 wherever a share of something is meant."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

_PERCENT: Final = re.compile(r"\s*([+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}))\s*%\s*", re.ASCII)


def from_percent(value: Any) -> Any:
    """Return the number that a text in percent means, `70%` as 0.7 to the bit; anything else as it is."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else float(Decimal(found[1]) / 100)
