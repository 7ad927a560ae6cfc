"""What goes wrong when a picture is read."""

from __future__ import annotations

import struct
from typing import Final

from PIL import Image

# What Pillow raises for a file that is damaged, or no picture, as it opens or decodes it.
UNREADABLE: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
