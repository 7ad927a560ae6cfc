"""Times and sizes as people say them."""

from __future__ import annotations

from basics.messages import counted

MINUTE, HOUR, DAY = 60, 3600, 86400  # seconds


def duration(seconds: float) -> str:
    """Return a time as people say it: `0.4 seconds`, `12 seconds`, `3 minutes`, `2 h 10 min`, `3 days 4 h`."""
    if seconds < 10:
        return counted(float(f"{seconds:.2g}") if seconds >= 0.01 else 0.01, "second")
    if round(seconds) < 2 * MINUTE:
        return counted(round(seconds), "second")
    if round(seconds / MINUTE) < 60:
        return counted(round(seconds / MINUTE), "minute")
    if round(seconds / HOUR) < 48:
        hours, minutes = divmod(round(seconds / MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{round(seconds / HOUR)} h"
    days, hours = divmod(round(seconds / HOUR), 24)
    return f"{counted(days, 'day')} {hours} h" if hours else counted(days, "day")


def size(count: int) -> str:
    """Return bytes as people say them: `340 MB`, `6.5 GB`."""
    if count < 1e6:
        return "less than 1 MB"
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
