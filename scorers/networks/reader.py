"""Reading the text in images: rapidocr, with the small PP-OCR models that its package holds. Nothing is downloaded.

It runs by onnxruntime on the CPU, so that what is read does not depend on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.protocol import SuiteImages


class OcrReader:
    """The text detector and recogniser in memory. The package must be installed."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        threads = torch.get_num_threads()
        options = {"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        self._engine = RapidOCR(params=options)

    def read(self, images: SuiteImages) -> tuple[tuple[str, ...], ...]:
        """Return the lines of text that are read in each image; none where there is no text."""
        return images.memo("text in images", lambda: tuple(self._lines(image) for image in images.images))

    def _lines(self, image: Tensor) -> tuple[str, ...]:
        bgr = image.cpu().flip(0).permute(1, 2, 0).contiguous().numpy()  # as OpenCV has images
        return tuple(self._engine(bgr).txts or ())
