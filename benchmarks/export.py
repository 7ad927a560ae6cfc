"""Compare the export of a full-size pair with a streamed numpy fp32 lerp of the same files: time and memory.

python benchmarks/export.py [--layout sd15|sdxl]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import torch
from memory import anonymous_bytes
from synthetic import write_synthetic

from optimizer.merging.engine.export import write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from search_spaces.blocks import places
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values

CHUNK = 1 << 22  # elements


class Peak:
    """The peak of anonymous memory above its value at the start, in bytes, sampled every 5 ms."""

    def __enter__(self) -> Self:
        self.start, self.most, self._done = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, anonymous_bytes() - self.start)


def numpy_lerp(paths: list[Path], out: Path, ratio: float) -> None:
    """Merge two files of the same layout in the simplest streamed way: fp16 data, float32 arithmetic."""
    header_bytes = 8 + int.from_bytes(paths[0].open("rb").read(8), "little")
    data_a, data_b = (np.memmap(path, dtype=np.float16, mode="r", offset=header_bytes) for path in paths)
    with out.open("wb") as file:
        file.write(paths[0].open("rb").read(header_bytes))
        for start in range(0, data_a.size, CHUNK):
            a = data_a[start : start + CHUNK].astype(np.float32)
            b = data_b[start : start + CHUNK].astype(np.float32)
            file.write((a + np.float32(ratio) * (b - a)).astype(np.float16).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        paths = [write_synthetic(folder / f"{seed}.safetensors", options.layout, seed) for seed in (1, 2)]
        ingredients = Ingredients(Parents.of([Checkpoint.open(path) for path in paths]))
        architecture = ingredients.parents.architecture
        values = canonical_values(dict.fromkeys(places(architecture), (0.37,)))
        recipe = Recipe(
            architecture=architecture.value,
            parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "AB"),
            steps=(Step(operation=Operation(method="weighted_sum", inputs=("A", "B")), values=values),),
        )
        start = time.perf_counter()
        with Peak() as numpy_peak:
            numpy_lerp(paths, folder / "numpy.bin", 0.37)
        numpy_seconds = time.perf_counter() - start
        (folder / "numpy.bin").unlink()
        start = time.perf_counter()
        with Peak() as export_peak:
            write_merge(folder / "merge.safetensors", recipe, ingredients, {"format": "pt"}, torch.device("cpu"))
        seconds = time.perf_counter() - start
        print(
            f"{options.layout}: export {seconds:.1f} s (with both sha256), numpy lerp {numpy_seconds:.1f} s, "
            f"ratio {seconds / numpy_seconds:.2f}; anonymous memory {export_peak.most / 1e9:.2f} GB, "
            f"numpy {numpy_peak.most / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
