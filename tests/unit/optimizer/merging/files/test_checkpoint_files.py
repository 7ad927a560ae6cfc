"""Opening and identifying .safetensors files, and what is repaired in any kind of file."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_tensors, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from basics.files import sha256_of
from optimizer.errors import CheckpointError
from optimizer.merging.files.checkpoint import (
    Checkpoint,
    TensorInfo,
    data_hash,
    is_mergeable,
    legacy_hash,
    letters,
    read_header,
    total_bytes,
)
from search_spaces.blocks import Architecture

UNET = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"


def tiny(path: Path, extra: Mapping[str, Tensor] | None = None, width: int = 4) -> Path:
    """A file that is recognised as SD1.5, of two tensors and what is added."""
    tensors = {UNET: torch.ones(width, 4, 3, 3), TEXT: torch.ones(8, dtype=torch.float16)} | dict(extra or {})
    save_file(tensors, path, metadata={"format": "pt", "title": "tiny"})
    return path


def raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def table(**changes: Any) -> bytes:
    row = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return json.dumps({"w": row}).encode()


class TestOpening:
    def test_tensors_come_in_the_order_of_their_data_with_dtype_and_shape(self, tmp_path: Path) -> None:
        header = json.dumps(
            {
                "late": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
                "__metadata__": {"format": "pt", "note": "größer"},
                "early": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]},
            }
        ).encode()
        checkpoint = Checkpoint.open(raw(tmp_path / "a.safetensors", header, b"\0" * 12))
        assert list(checkpoint.tensors.items()) == [
            ("early", TensorInfo(torch.int64, (1, 1))),
            ("late", TensorInfo(torch.float16, (2,))),
        ]
        assert checkpoint.metadata == {"format": "pt", "note": "größer"}
        assert total_bytes(checkpoint.tensors.values()) == 12

    def test_a_tensor_reads_as_it_was_saved(self, tmp_path: Path) -> None:
        saved = {"half": torch.randn(3, 5).half(), "scalar": torch.tensor(4.5), "none": torch.zeros(0)}
        checkpoint = Checkpoint.open(tiny(tmp_path / "a.safetensors", saved))
        for key, tensor in saved.items():
            assert torch.equal(checkpoint.tensor(key), tensor)
            assert checkpoint.tensor(key).dtype == tensor.dtype

    @pytest.mark.parametrize("metadata", [None, {}])
    def test_a_file_without_metadata_has_none(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata=metadata)
        assert Checkpoint.open(tmp_path / "a.safetensors").metadata == {}

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent\.safetensors"):
            Checkpoint.open(tmp_path / "absent.safetensors")

    def test_a_folder_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is a folder"):
            Checkpoint.open(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x05\0\0", id="shorter than a length"),
            pytest.param(b"model: A\nThis is a text file, no checkpoint.\n", id="text"),
            pytest.param(b"\x80\x02}q\0X" + b"\0" * 64, id="pickle"),
            pytest.param(struct.pack("<Q", 2**63) + b"{}", id="absurd length"),
            pytest.param(struct.pack("<Q", 100) + b'{"w":', id="header cut off"),
            pytest.param(struct.pack("<Q", 0) + b"{}", id="no header"),
        ],
    )
    def test_what_has_no_header_is_not_safetensors(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors is (not a \.safetensors file|empty)"):
            Checkpoint.open(path)

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b'{"w": nonsense}', id="not JSON"),
            pytest.param(b"\xff\xfe\x00\x01", id="not UTF-8"),
            pytest.param(b"[" * 100_000, id="nested too deep"),
            pytest.param(b"[1, 2]", id="a list"),
            pytest.param(b'{"w": 3}', id="no row"),
            pytest.param(table(dtype="F99"), id="unknown dtype"),
            pytest.param(table(shape=None), id="no shape"),
            pytest.param(table(shape=[3]), id="shape and offsets differ"),
            pytest.param(table(data_offsets=[0]), id="half an offset"),
            pytest.param(table(data_offsets=["0", "x"]), id="offsets as text"),
            pytest.param(table(data_offsets=[0, float("inf")]), id="endless"),
        ],
    )
    def test_a_damaged_header_is_said_to_be_one(self, tmp_path: Path, header: bytes) -> None:
        path = raw(tmp_path / "bad.safetensors", header, b"\0" * 8)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors (has a damaged|cannot be read)"):
            Checkpoint.open(path)

    def test_data_that_is_cut_off_is_told_with_the_sizes(self, tmp_path: Path) -> None:
        path = tiny(tmp_path / "short.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-10])
        with pytest.raises(CheckpointError, match=rf"cut off: .*{len(content):,} bytes.*{len(content) - 10:,}"):
            Checkpoint.open(path)

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only")
    def test_a_file_that_the_system_refuses_to_read_is_a_checkpoint_error(self) -> None:
        with pytest.raises(CheckpointError, match="/proc/self/mem"):
            Checkpoint.open(Path("/proc/self/mem"))  # it exists, and reading it fails, even for root

    @settings(max_examples=200, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["w", "__metadata__", "dtype", "shape", "data_offsets"]), inner)
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
        )
    )
    def test_whatever_stands_in_the_header_is_read_or_refused_in_words(
        self, tmp_path_factory: pytest.TempPathFactory, header: bytes
    ) -> None:
        path = raw(tmp_path_factory.getbasetemp() / "fuzz.safetensors", header)
        try:
            checkpoint = Checkpoint.open(path)
        except CheckpointError:
            return
        assert dict(checkpoint.tensors) == {} or json.loads(header)
        assert isinstance(checkpoint.metadata, dict)


class TestIdentity:
    def test_whole_file_hash_matches_hashlib_and_reports_progress(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        content = bytes(range(256)) * 40_000  # more than two chunks
        path.write_bytes(content)
        seen: list[int] = []
        assert sha256_of(path, seen.append) == hashlib.sha256(content).hexdigest()
        assert sum(seen) == len(content)
        assert len(seen) > 2

    def test_legacy_hash_is_that_of_64_kib_at_one_mib(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        content = bytes(index * 7 % 251 for index in range(0x100000 + 0x10000 + 99))
        path.write_bytes(content)
        assert legacy_hash(path) == hashlib.sha256(content[1_048_576:1_114_112]).hexdigest()[:8]

    def test_legacy_hash_of_a_small_file_is_that_of_nothing(self, tmp_path: Path) -> None:
        assert legacy_hash(tiny(tmp_path / "a.safetensors")) == "e3b0c442"  # as A1111 shows it

    def test_data_hash_leaves_the_header_out(self, tmp_path: Path) -> None:
        one, other = tiny(tmp_path / "one.safetensors"), tmp_path / "other.safetensors"
        header = int.from_bytes(one.read_bytes()[:8], "little")
        data = one.read_bytes()[8 + header :]
        raw(other, one.read_bytes()[8 : 8 + header] + b" " * 8, data)
        assert data_hash(one) == data_hash(other) == hashlib.sha256(data).hexdigest()
        assert Checkpoint.open(one).sha256 != Checkpoint.open(other).sha256

    def test_an_unknown_model_is_described(self, tmp_path: Path) -> None:
        save_file({"lora_unet_x.lora_up.weight": torch.ones(2)}, tmp_path / "l.safetensors")
        with pytest.raises(CheckpointError, match=r"l\.safetensors: .*a LoRA"):
            _ = Checkpoint.open(tmp_path / "l.safetensors").architecture


class TestMergeable:
    @pytest.mark.parametrize(
        ("key", "dtype", "expected"),
        [
            (UNET, torch.float16, True),
            (UNET, torch.int8, False),
            ("first_stage_model.decoder.conv_in.weight", torch.bfloat16, True),
            ("cond_stage_model.transformer.text_model.embeddings.position_ids", torch.int64, False),
            ("cond_stage_model.transformer.text_model.embeddings.position_ids", torch.float16, False),
            ("model_ema.diffusion_modelinput_blocks00weight", torch.float32, False),
            ("alphas_cumprod", torch.float32, False),
            ("v_pred", torch.float32, False),
            ("model.diffusion_model.input_blocks.77.0.weight", torch.float32, False),
        ],
    )
    def test_ratios_apply_to_weights_only(self, key: str, dtype: torch.dtype, expected: bool) -> None:
        assert is_mergeable(key, TensorInfo(dtype, (4,)), Architecture.SD15) is expected


def positions(key: str, values: Tensor, folder: Path) -> Checkpoint:
    return Checkpoint.open(tiny(folder / "p.safetensors", {key: values}))


class TestCanonicalNames:
    def test_a_plain_file_needs_no_notes(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "a.safetensors"))
        assert checkpoint.notes == ()
        assert list(checkpoint.tensors) == list(read_header(tmp_path / "a.safetensors")[0])

    @pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
    def test_text_encoders_without_text_model_are_read_under_the_usual_names(
        self, architecture: str, tmp_path: Path
    ) -> None:
        tensors = random_tensors(architecture, 1)
        named = {key: key.replace(".transformer.text_model.", ".transformer.") for key in tensors}
        save_file({named[key]: tensor for key, tensor in tensors.items()}, tmp_path / "nai.safetensors")
        checkpoint = Checkpoint.open(tmp_path / "nai.safetensors")
        assert checkpoint.architecture == architecture
        assert checkpoint.tensors.keys() == tensors.keys()
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in tensors.items())
        changed = sum(old != new for old, new in named.items())
        assert [note for note in checkpoint.notes if note.startswith(f"{changed} tensors of the text encoder lack")]

    def test_a_tensor_under_both_names_is_read_from_the_usual_one(self, tmp_path: Path) -> None:
        """Merges of NAI's files with others hold both, and other programs read the usual one."""
        old = TEXT.replace("text_model.", "")
        for order in ((old, TEXT), (TEXT, old)):
            values = {key: torch.full((8,), float(key == TEXT)) for key in order}
            checkpoint = Checkpoint.open(tiny(tmp_path / "both.safetensors", values))
            assert old not in checkpoint.tensors
            assert checkpoint.tensor(TEXT).tolist() == [1.0] * 8
            assert any("under two names" in note for note in checkpoint.notes)

    @pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
    @pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
    def test_a_u_net_alone_is_recognised_with_and_without_prefix(
        self, architecture: str, prefix: str, tmp_path: Path
    ) -> None:
        home = "model.diffusion_model."
        unet = {key: row for key, row in random_tensors(architecture, 1).items() if key.startswith(home)}
        save_file({prefix + key.removeprefix(home): row for key, row in unet.items()}, tmp_path / "u.safetensors")
        checkpoint = Checkpoint.open(tmp_path / "u.safetensors")
        assert (checkpoint.architecture, checkpoint.components) == (architecture, ("unet",))
        assert checkpoint.tensors.keys() == unet.keys()
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in unet.items())
        assert len(checkpoint.notes) == (0 if prefix else 1)

    @pytest.mark.parametrize(
        ("architecture", "gone", "left"),
        [
            ("sd15", "first_stage_model.", ("unet", "text_encoder")),
            ("sd15", "cond_stage_model.", ("unet", "vae")),
            ("sdxl", "conditioner.embedders.0.", ("unet", "text_encoder_2", "vae")),
            ("sdxl", "conditioner.embedders.1.", ("unet", "text_encoder", "vae")),
            ("sdxl", "nothing", ("unet", "text_encoder", "text_encoder_2", "vae")),
        ],
    )
    def test_components_are_those_that_the_file_has(
        self, architecture: str, gone: str, left: tuple[str, ...], tmp_path: Path
    ) -> None:
        tensors = {key: row for key, row in random_tensors(architecture, 1).items() if not key.startswith(gone)}
        save_file(tensors, tmp_path / "part.safetensors")
        assert Checkpoint.open(tmp_path / "part.safetensors").components == left


class TestPositions:
    KEY = "cond_stage_model.transformer.text_model.embeddings.position_ids"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_positions_stored_as_floats_are_read_as_integers(self, dtype: torch.dtype, tmp_path: Path) -> None:
        checkpoint = positions(self.KEY, torch.arange(77).to(dtype)[None], tmp_path)
        assert checkpoint.tensors[self.KEY] == TensorInfo(torch.int64, (1, 77))
        assert torch.equal(checkpoint.tensor(self.KEY), torch.arange(77)[None])
        assert [note for note in checkpoint.notes if "position_ids" in note and "damaged" not in note]
        assert len(checkpoint.notes) == 1

    def test_positions_that_are_nearly_whole_are_rounded(self, tmp_path: Path) -> None:
        checkpoint = positions(self.KEY, torch.arange(77)[None] + 0.4, tmp_path)
        assert torch.equal(checkpoint.tensor(self.KEY), torch.arange(77)[None])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
    def test_damaged_positions_are_kept_and_told(self, dtype: torch.dtype, tmp_path: Path) -> None:
        damaged = torch.arange(77)
        damaged[41:] -= 1
        checkpoint = positions(self.KEY, damaged.to(dtype)[None], tmp_path)
        assert torch.equal(checkpoint.tensor(self.KEY), damaged[None])
        assert any("36 of 77 positions are wrong, the first is 40 instead of 41" in row for row in checkpoint.notes)

    def test_good_positions_need_no_note(self, tmp_path: Path) -> None:
        assert positions(self.KEY, torch.arange(77)[None], tmp_path).notes == ()


class TestRefusals:
    @pytest.mark.parametrize(
        "key",
        [
            "scaled_fp8",
            "model.diffusion_model.input_blocks.1.1.proj_in.scale_weight",
            "model.diffusion_model.input_blocks.1.1.proj_in.comfy_quant",
            "model.diffusion_model.input_blocks.1.1.proj_in.weight.absmax",
            "model.diffusion_model.input_blocks.1.1.proj_in.weight.quant_state.bitsandbytes__nf4",
        ],
    )
    def test_weights_that_need_a_scale_are_refused(self, key: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is quantised"):
            Checkpoint.open(tiny(tmp_path / "q.safetensors", {key: torch.ones(1)}))

    @pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "model.ckpt"])
    def test_a_gguf_file_is_refused_as_quantised_whatever_its_name(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 5) + bytes(100))
        with pytest.raises(CheckpointError, match="GGUF file: its weights are quantised"):
            Checkpoint.open(tmp_path / name)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_under_the_wrong_name_is_told_as_one(self, zipped: bool, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "a.safetensors", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"is not a \.safetensors file but was written by torch\.save"):
            Checkpoint.open(tmp_path / "a.safetensors")

    def test_a_header_whose_length_looks_like_a_pickle_is_a_header(self, tmp_path: Path) -> None:
        header = table().ljust(0x0280)  # its length begins with the bytes 80 02, as a pickle of protocol 2 does
        path = raw(tmp_path / "a.safetensors", header, bytes(8))
        assert path.read_bytes().startswith(b"\x80\x02")
        assert list(Checkpoint.open(path).tensors) == ["w"]

    @pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "C64"])
    def test_a_type_of_numbers_that_is_not_known_is_named(self, dtype: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=f"tensors of dtype {dtype}, expected one of F64, F32, F16"):
            Checkpoint.open(raw(tmp_path / "a.safetensors", table(dtype=dtype), bytes(8)))

    def test_a_lone_bin_file_is_refused_with_what_to_give_instead(self, tmp_path: Path) -> None:
        torch.save({"w": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"the folder that holds model_index\.json"):
            Checkpoint.open(tmp_path / "diffusion_pytorch_model.bin")


def test_parents_are_lettered_in_order() -> None:
    assert letters(3) == ("A", "B", "C")


def test_size_and_time_are_those_of_the_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny(tmp_path / "v1.5-tiny.safetensors"))
    stat = checkpoint.path.stat()
    assert (checkpoint.size_bytes, checkpoint.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert checkpoint.files == (checkpoint.path,)
    assert checkpoint.name == "v1.5-tiny"


def test_hashes_of_a_file_are_those_other_programs_show(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny(tmp_path / "a.safetensors"))
    content = checkpoint.path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert checkpoint.sha256 == checkpoint.hash() == hashlib.sha256(content).hexdigest()
    assert checkpoint.data_hash == hashlib.sha256(content[8 + header :]).hexdigest()
    assert checkpoint.legacy_hash == "e3b0c442"


def test_header_and_data_end_exactly_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.safetensors")
    tensors, _ = read_header(path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert 8 + header + total_bytes(tensors.values()) == path.stat().st_size
