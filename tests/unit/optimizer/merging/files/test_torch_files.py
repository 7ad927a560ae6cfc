"""Files of torch.save: read as the same tensors, and never run."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from checkpoints import random_tensors
from safetensors.torch import save_file
from slow_cases import first_fast
from torch import Tensor

from basics.files import sha256_of
from optimizer.errors import CheckpointError
from optimizer.merging.files.checkpoint import Checkpoint, TensorInfo
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora

ZIP_OR_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, content: object, *, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def of_another_package(monkeypatch: pytest.MonkeyPatch, module: str, name: str, *bases: type) -> type:
    """A class that pickles by the name of a package which is not installed where the file is read."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    found = type(name, bases, {"__module__": module})
    setattr(sys.modules[module], name, found)
    return found


class TestReading:
    @ZIP_OR_LEGACY
    @pytest.mark.parametrize("suffix", first_fast(1, ["ckpt", "pt", "pth", "CKPT"]))
    def test_tensors_are_those_that_were_saved(self, suffix: str, zipped: bool, tmp_path: Path) -> None:
        tensors = random_tensors("sd15", 1)
        checkpoint = Checkpoint.open(save(tmp_path / f"a.{suffix}", {"state_dict": tensors}, zipped=zipped))
        assert checkpoint.architecture == "sd15"
        assert list(checkpoint.tensors) == list(tensors)
        for key, tensor in tensors.items():
            assert checkpoint.tensors[key] == TensorInfo(tensor.dtype, tuple(tensor.shape))
            assert torch.equal(checkpoint.tensor(key), tensor)
        assert (checkpoint.notes, checkpoint.metadata) == ((), {})

    @pytest.mark.parametrize(
        "dtype",
        [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool],
    )
    def test_every_dtype_keeps_its_bytes(self, dtype: torch.dtype, tmp_path: Path) -> None:
        tensor = torch.arange(24).reshape(2, 12).to(dtype)
        stored = Checkpoint.open(save(tmp_path / "a.ckpt", {"w": tensor})).tensor("w")
        assert stored.dtype == dtype
        assert torch.equal(stored.view(torch.uint8), tensor.view(torch.uint8))

    @pytest.mark.parametrize("wrap", [dict, OrderedDict])
    def test_the_state_dict_may_be_bare_or_nested(self, wrap: Callable[..., Any], tmp_path: Path) -> None:
        tensors = {"w": torch.ones(2)}
        for depth, content in enumerate(
            [wrap(tensors), wrap(state_dict=wrap(tensors)), {"state_dict": {"state_dict": tensors}}]
        ):
            checkpoint = Checkpoint.open(save(tmp_path / f"{depth}.ckpt", content))
            assert checkpoint.tensors == {"w": TensorInfo(torch.float32, (2,))}

    def test_what_is_no_tensor_is_ignored_and_named(self, tmp_path: Path) -> None:
        content = {"state_dict": {"w": torch.ones(2), "step": 3, 7: torch.ones(1)}, "epoch": 1, "lr_schedulers": []}
        checkpoint = Checkpoint.open(save(tmp_path / "a.ckpt", content))
        assert list(checkpoint.tensors) == ["w"]
        assert [note for note in checkpoint.notes if "step, 7" in note]
        assert [note for note in checkpoint.notes if "epoch, lr_schedulers" in note]

    def test_parameters_and_transposed_tensors_read_as_plain_ones(self, tmp_path: Path) -> None:
        weight = torch.nn.Parameter(torch.randn(3, 5))
        turned = torch.randn(4, 6).t()
        checkpoint = Checkpoint.open(save(tmp_path / "a.ckpt", {"p": weight, "t": turned}))
        assert torch.equal(checkpoint.tensor("p"), weight)
        assert not checkpoint.tensor("p").requires_grad
        assert torch.equal(checkpoint.tensor("t"), turned)
        assert checkpoint.tensor("t").is_contiguous()

    def test_hashes_are_of_the_file(self, tmp_path: Path) -> None:
        path = save(tmp_path / "v1-5.ckpt", {"w": torch.ones(2)})
        checkpoint = Checkpoint.open(path)
        assert checkpoint.sha256 == sha256_of(path)
        assert checkpoint.size_bytes == path.stat().st_size
        assert checkpoint.data_hash is None
        assert checkpoint.legacy_hash is not None
        assert checkpoint.name == "v1-5"

    def test_a_zip_that_was_packed_again_is_read_as_it_was(self, tmp_path: Path) -> None:
        """Compressed tensors must not be mapped as if they were values."""
        tensor = torch.arange(4096).float() // 100
        plain, packed = save(tmp_path / "plain.ckpt", {"w": tensor}), tmp_path / "packed.ckpt"
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        assert packed.stat().st_size < plain.stat().st_size / 2
        assert torch.equal(Checkpoint.open(packed).tensor("w"), tensor)

    @pytest.mark.slow
    def test_a_large_zip_is_mapped_and_not_loaded(self, tmp_path: Path) -> None:
        """Measured in a process of its own: opening 256 MB must not take 256 MB."""
        path = save(tmp_path / "large.ckpt", {"w": torch.zeros(64, 1 << 20)})
        script = (
            "import resource, sys; from pathlib import Path\n"
            "from optimizer.merging.files.checkpoint import Checkpoint\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "Checkpoint.open(Path(sys.argv[1]))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        out = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        assert int(out.stdout) < 64 * 1024  # KiB on Linux


class TestLightning:
    @ZIP_OR_LEGACY
    def test_the_classes_that_trained_the_first_files_are_ignored_and_named(
        self, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as packages:
            home = "pytorch_lightning.callbacks.model_checkpoint"
            callback = of_another_package(packages, home, "ModelCheckpoint")
            hyper = of_another_package(packages, "pytorch_lightning.utilities.parsing", "AttributeDict", dict)
            state = callback()
            state.best_model_path = "x"
            content = {
                "state_dict": {"w": torch.arange(3.0)},
                "callbacks": {callback: {"best_model_score": torch.ones(1)}},
                "callback": state,
                "hyper_parameters": hyper(lr=1e-4),
            }
            path = save(tmp_path / "sd-v1-4.ckpt", content, zipped=zipped)
        checkpoint = Checkpoint.open(path)
        assert checkpoint.tensor("w").tolist() == [0, 1, 2]
        assert [note for note in checkpoint.notes if f"{home}.ModelCheckpoint" in note]
        assert [note for note in checkpoint.notes if "callbacks, callback, hyper_parameters" in note]
        assert "pytorch_lightning" not in sys.modules

    def test_nothing_of_an_installed_lightning_is_imported_or_called(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as packages:
            runner = of_another_package(packages, "pytorch_lightning.trap", "run")

            class Call:
                def __reduce__(self) -> tuple[Any, ...]:
                    return runner, ("anything",)

            path = save(tmp_path / "trap.ckpt", {"state_dict": {"w": torch.ones(1)}, "x": Call()})
        package = tmp_path / "site" / "pytorch_lightning"
        package.mkdir(parents=True)
        marker = tmp_path / "ran"
        for name in ("__init__.py", "trap.py"):
            (package / name).write_text(f"open({str(marker)!r}, 'w')\ndef run(*a): open({str(marker)!r}, 'w')\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        assert list(Checkpoint.open(path).tensors) == ["w"]
        assert not marker.exists()


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class TestCode:
    @ZIP_OR_LEGACY
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("nested", [True, False])
    @pytest.mark.parametrize(
        ("function", "named"),
        [
            (os.system, r"(posix|nt)\.system"),
            (builtins.exec, r"builtins\.exec"),
            (subprocess.call, r"(subprocess|commands)\.call"),
        ],
    )
    def test_a_file_that_runs_code_is_refused_by_the_name_of_what_it_calls(
        self, function: Callable[..., Any], named: str, nested: bool, protocol: int, zipped: bool, tmp_path: Path
    ) -> None:
        marker = tmp_path / "ran"
        argument: Any = f"touch {marker}" if function is os.system else ["touch", str(marker)]
        if function is builtins.exec:
            argument = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        evil = Runs(function, argument)
        content = {"state_dict": {"w": torch.ones(1)} | ({"x": evil} if nested else {}), "y": None if nested else evil}
        path = save(tmp_path / "evil.ckpt", content, zipped=zipped, protocol=protocol)
        with pytest.raises(CheckpointError, match=rf"evil\.ckpt holds executable code .*{named}.* refused") as caught:
            Checkpoint.open(path)
        assert not marker.exists()
        assert "\n" not in str(caught.value)
        torch.load(path, weights_only=False)  # it is what it claims to be: another reader runs it
        assert marker.exists()

    def test_a_class_of_another_package_is_refused_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = of_another_package(monkeypatch, "pytorch_lightning_evil.callbacks", "ModelCheckpoint")
        path = save(tmp_path / "a.ckpt", {"state_dict": {}, "callbacks": {other: 1}})
        with pytest.raises(CheckpointError, match=r"names pytorch_lightning_evil\.callbacks\.ModelCheckpoint"):
            Checkpoint.open(path)

    def test_what_torch_itself_does_not_allow_is_refused_by_name(self, tmp_path: Path) -> None:
        path = save(tmp_path / "module.pt", {"state_dict": {}, "model": torch.nn.Linear(1, 1)})
        with pytest.raises(CheckpointError, match=r"executable code .*torch\.nn\.modules\.linear\.Linear"):
            Checkpoint.open(path)


class TestDamage:
    @ZIP_OR_LEGACY
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
    def test_a_file_that_is_cut_off_is_refused(self, kept: float, zipped: bool, tmp_path: Path) -> None:
        path = save(tmp_path / "a.ckpt", {"state_dict": {"w": torch.randn(100, 100)}}, zipped=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(CheckpointError, match=r"a\.ckpt .*fetch it again") as caught:
            Checkpoint.open(path)
        assert "\n" not in str(caught.value)
        assert "executable" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [b"not a checkpoint at all", b"<!DOCTYPE html>", b"PK\x03\x04" + bytes(50), b"\x80\x02}q\x00.", b"\x80\x05K"],
    )
    def test_other_content_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.ckpt"):
            Checkpoint.open(tmp_path / "a.ckpt")

    @pytest.mark.parametrize(
        "tensor",
        [torch.ones(2, 2).to_sparse(), torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta")],
        ids=["sparse", "complex", "without data"],
    )
    def test_tensors_that_cannot_be_merged_are_named(self, tensor: Tensor, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="odd is stored as"):
            Checkpoint.open(save(tmp_path / "a.pt", {"odd": tensor}))


PAIRS = [torch.ones(4, 2), torch.ones(2, 3), torch.ones(5, 1), torch.ones(1, 6)]
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
NAMELESS = r"a LoRA of cloneofsimo's lora_diffusion, .* \(its own `lora_add MODEL LORA OUTPUT.ckpt 1.0 --mode upl-ckpt"
OTHERS: list[tuple[object, str]] = [
    (torch.ones(1), "a single tensor without a name"),
    ([torch.ones(1)], r"a list of 1 element without names \(Tensor\)"),
    (([1, 2], "x"), r"a tuple of 2 elements without names \(list, str\)"),
    ([], "a list of no elements"),
    ("text", "a str instead of tensors by name"),
    (None, "a NoneType instead of tensors by name"),
    ({}, "an empty dictionary"),
    ({"state_dict": {}}, r"a dictionary without tensors \(its entries: state_dict\)"),
    ({"epoch": 3, "config": {"rank": {"unet": 4}}}, r"a dictionary without tensors \(its entries: epoch, config\)"),
    ({0: torch.ones(2), 1: torch.ones(2)}, "tensors by number instead of by name"),
    (OPTIMIZER, "the state of an optimizer"),
    ({"optimizer": OPTIMIZER}, "the state of an optimizer"),
    ({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 768)}}, "an embedding"),
    (PAIRS, NAMELESS),
    (tuple(PAIRS), NAMELESS),
    ([torch.ones(4, 2, 1, 1), torch.ones(2, 3, 3, 3)], NAMELESS),
    ({"unet:0": PAIRS[:2], "unet:1": PAIRS[2:]}, NAMELESS),
    ({"unet": PAIRS, "text_encoder": PAIRS}, NAMELESS),
]


@pytest.mark.parametrize(
    ("opens", "wanted"),
    [(Checkpoint.open, "a checkpoint"), (VaeFile.open, "a VAE file"), (Lora.open, "a LoRA file")],
    ids=["parent", "vae", "lora"],
)
@pytest.mark.parametrize(("content", "what"), OTHERS)
def test_what_a_file_holds_instead_of_tensors_by_name_is_said_whatever_it_was_given_for(
    content: object, what: str, opens: Callable[[Path], object], wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"a.pt holds {what}.*: give {wanted}$") as caught:
        opens(save(tmp_path / "a.pt", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opens", [Checkpoint.open, VaeFile.open, Lora.open], ids=["parent", "vae", "lora"])
@pytest.mark.parametrize("module", [torch.nn.Linear(1, 1), torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))])
def test_a_whole_module_is_told_by_what_to_save_instead(
    module: torch.nn.Module, opens: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(module, path)
    with pytest.raises(CheckpointError, match=r"a whole module was saved .*: save its state_dict\(\)"):
        opens(path)


@pytest.mark.parametrize("keys", [("unet:0:up", "unet:0:down"), ("text_encoder:11:up", "text_encoder:11:down")])
def test_a_lora_without_names_of_layers_is_told_in_safetensors_too(keys: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({key: torch.ones(2, 2) for key in keys}, path)
    with pytest.raises(CheckpointError, match="a LoRA of cloneofsimo's lora_diffusion, which has no names of layers"):
        Lora.open(path)
    with pytest.raises(CheckpointError, match="got a LoRA"):
        _ = Checkpoint.open(path).architecture


def test_an_embedding_of_diffusers_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "learned_embeds.pt", {"<my-cat>": torch.ones(768)})
    with pytest.raises(CheckpointError, match="an embedding"):
        _ = Checkpoint.open(path).architecture
    with pytest.raises(CheckpointError, match="an embedding"):
        VaeFile.open(path)
    with pytest.raises(CheckpointError, match="an embedding"):
        Lora.open(path)
