"""What a failed download leaves under a model's name is named, by every reader of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from basics.foreign import in_place_of_model
from optimizer.errors import CheckpointError
from optimizer.merging.files.checkpoint import Checkpoint
from scorers.errors import WrongWeightsError
from scorers.weights.tensors import load_tensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2132625894\n"
LEFT = {
    "a pointer of Git LFS": POINTER,
    "a web page": b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>Please log in</body></html>",
    "a web page, saved": b"<html lang='en'><head></head></html>",
    "a JSON text": b'{"error": "You must be authenticated to access this model"}',
    "empty": b"",
}


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.pt"])
@pytest.mark.parametrize("what", LEFT)
def test_every_reader_says_what_it_is(what: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(LEFT[what])
    if not name.endswith(".pt"):
        with pytest.raises(CheckpointError, match=what):
            Checkpoint.open(path)
    with pytest.raises(WrongWeightsError, match=what):
        load_tensors(path)


def test_models_are_none_of_it(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert [in_place_of_model(path) for path in sorted(tmp_path.iterdir())] == [None, None, None]
