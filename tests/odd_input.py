"""Hypothesis strategies for malformed and malicious input: values, documents, file headers and pickles."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import yaml
from hostile_files import cycle, program, wide
from hypothesis import strategies as st

PATHS = (
    "a.safetensors", "b.safetensors", "absent.safetensors", "../outside.safetensors", "../../../../etc/passwd",
    "~root/x",
    "~nobody-of-that-name/x", "/dev/zero", "/dev/null", "/proc/self/mem", "loop.safetensors", "pipe.safetensors",
    "link.safetensors", "folder.safetensors", "folder", ".", "", "/", "a.safetensors/b", "n\0l", "x" * 300, "-",
    "--help",
    "lora.safetensors", "a.ckpt", "spec.yaml", "recipe.yaml",
)  # fmt: skip
WORDS = (
    "weighted_sum", "add_difference", "ties_soup", "slerp", "IN*", "IN00", "M00", "*", "[", "[red]", "IN", "preset",
    "base",
    "GRAD_V", "result", "step1", "A", "B", "ratio", "depth", "gp", "tpe", "auto", "sharpness", "contrast", "all",
    "best",
    "0.5", "1e999", "nan", ".inf", "${HOME}", "{0}", "%s", "!!python/object:os.system", "2026-02-30", "0x1F", "1_000",
    "\u202e\u0000\u2028", "\ufeff", "💥", "ａ", "İ", "\x1b[2J", "0,0.5,1", ",".join(["0.5"] * 26),
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    1e308,
    1e-320,
    -0.0,
    float("inf"),
    float("nan"),
)

CONTROLS = (
    "\x1b[2J",
    "\x1b]0;pwned\x07",
    "\x9b1m",
    "\x07\x08\x7f",
    "a\rb",
    "cat\u202egnp",
    "\u2066\u2069",
    "\u2028",
    "[bold]",
)
commanding = st.lists(st.sampled_from(CONTROLS) | st.text(max_size=5), min_size=1, max_size=4).map("".join)

scalars = (
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(PATHS) | st.sampled_from(WORDS) | st.floats()
    | st.text(max_size=20) | commanding
)  # fmt: skip
keys = st.sampled_from([*WORDS, "path", "sha256", "seed", "name", "weight", "clip", "inputs", "values"]) | st.text(
    max_size=8
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


def paths_in(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a document."""
    paths = [path] if path else []
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        paths += paths_in(inner, (*path, key))
    return paths


def similar(value: Any) -> st.SearchStrategy[Any]:
    """Draw values of the same type, which pass more checks than others."""
    if isinstance(value, str):
        return st.sampled_from(PATHS) | st.sampled_from(WORDS) | st.text(max_size=20).map(lambda text: value + text)
    if isinstance(value, (int, float)):
        return st.sampled_from(NUMBERS) | st.floats() | st.integers(-2, 70)
    if isinstance(value, list):
        return st.permutations(value) | st.just([]) | st.just(value * 3) | st.lists(scalars, max_size=3)
    if isinstance(value, dict):
        return st.dictionaries(keys, scalars, min_size=1, max_size=2).map(lambda more: value | more)
    return scalars


@st.composite
def changed(draw: st.DrawFn, bases: Sequence[Any]) -> Any:
    """Draw a valid document in which one to three parts are replaced, removed, repeated or added."""
    tree = deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(paths_in(tree) or [("x",)]))
        parent = tree
        for key in path:
            parent = parent[key]
        match draw(st.sampled_from(["similar", "similar", "similar", "replace", "remove", "add", "repeat"])):
            case "similar":
                parent[last] = draw(similar(parent[last]))
            case "replace":
                parent[last] = draw(values)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(keys)] = draw(values)
            case "repeat" if isinstance(parent, list):
                parent.extend([parent[last]] * draw(st.integers(1, 40)))
    return tree


def bomb(leaf: str, width: int = 9, depth: int = 9) -> str:
    """Return a few lines of YAML that expand to width ** depth values, under the anchor `bomb`."""
    lines = [f"a0: &a0 [{', '.join([leaf] * width)}]"]
    lines += [f"a{step}: &a{step} [{', '.join([f'*a{step - 1}'] * width)}]" for step in range(1, depth)]
    return "\n".join([*lines, f"b: &bomb [*a{depth - 1}]\n"])


TRICKS = (
    bomb("x"), "&a [*a]", "a: &a {b: *a}", "[" * 3000, "{a: " * 2000, "- " * 3000,
    "!!python/object/apply:os.system [touch x]",
    "%YAML 9.9\n---\n", "--- a\n--- b\n", "? [1, 2]\n: 3\n", "<<: *nobody", "<<: {<<: {<<: 1}}", "&a a: 1\n*a : 2\n",
    "\t", "\0",
    "!!timestamp 2026-02-30", "!!binary =", "!!set {a, b}", "!!omap [a: 1]", "=", "<<", "~", "0o7:1:99", "1" * 5000,
    "a: |\n" + " x" * 50, "\ufeff\ufeff", "# only a comment", "key: " + "9" * 400 + ".5", "!<tag:x> y", "x" * 70_000,
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn, bases: Sequence[Any], *, as_json: bool = False) -> str:
    """Draw YAML or JSON text: mostly a changed valid document, sometimes damaged text."""
    data = draw(changed(bases))
    text = json.dumps(data) if as_json else yaml.safe_dump(data, allow_unicode=True)
    match draw(st.sampled_from(["whole"] * 6 + ["cut", "joined", "trick", "bombed"])):
        case "cut":
            start, stop = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
            return text[:start] + text[stop:]
        case "joined":
            position = draw(st.integers(0, len(text)))
            return text[:position] + draw(st.sampled_from(TRICKS) | st.text(max_size=10)) + text[position:]
        case "trick":
            return draw(st.sampled_from(TRICKS))
        case "bombed" if not as_json and isinstance(data, dict) and data:
            rest = {
                key: value
                for key, value in data.items()
                if key != (bombed := draw(st.sampled_from(sorted(map(str, data)))))
            }
            leaf = draw(st.sampled_from(["x", "0.5", "a.safetensors"]))
            return bomb(leaf) + yaml.safe_dump(rest) + f"{bombed!r}: *bomb\n"
    return text


# ------------------------------------------------------------------------------------------- files

SIZES = st.sampled_from(
    [0, 1, 2, 7, 2**20, 2**31, 2**40, 2**50, 2**62, 2**63, 2**64 - 1, -1, -(2**62), 10**30, 1.5, None, "4"]
)
DTYPE_WORDS = st.sampled_from(
    ["F16", "F32", "F64", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "I4", "f16", "", "F" * 999, None, 16]
)


FIELDS = ("lora_adapter_metadata", "mergetune.recipe", "sd_merge_recipe", "sd_merge_models", "mecha_recipe", "format")
SETTINGS = st.dictionaries(st.sampled_from(["unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora"]), values)
metadata = st.dictionaries(
    st.sampled_from(FIELDS),
    (values | SETTINGS).map(json.dumps)
    | commanding
    | st.sampled_from(["[" * 100_000, "{}", "nan", '{"unet.lora_alpha": 1}']),
    max_size=3,
)


COUNTS = st.sampled_from([10, 1000, 100_000, 2_000_000])
floods = st.one_of(  # headers that are longer, deeper or fuller than any
    COUNTS.map(lambda count: json.dumps({"a" * count: 1})),
    COUNTS.map(lambda count: json.dumps({"a": {"dtype": "F" * count, "shape": [], "data_offsets": [0, 0]}})),
    COUNTS.map(lambda count: json.dumps({"a": {"dtype": "F16", "shape": [1] * count, "data_offsets": [0, 2]}})),
    COUNTS.map(lambda count: "{" + ",".join(f'"{number}":{{}}' for number in range(count)) + "}"),
    COUNTS.map(lambda count: '{"a": ' + "[" * count),
    COUNTS.map(lambda count: json.dumps({"__metadata__": {"k" * count: "\x1b" * count}})),
)


@st.composite
def safetensors_files(draw: st.DrawFn, names: Sequence[str], honest_headers: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw a safetensors file whose header may be wrong in every respect."""
    header: dict[str, Any] = {}
    data = b"\0" * draw(st.sampled_from([0, 8, 64, 4096]))
    offset = 0
    if draw(st.booleans()):
        real = draw(st.sampled_from(honest_headers))
        offset = max(entry["data_offsets"][1] for entry in real.values() if "data_offsets" in entry)
        header = dict(draw(st.sampled_from([real]) | changed([real])))
    for name in draw(st.lists(st.sampled_from(names) | st.text(max_size=9), max_size=6, unique=True)):
        honest = draw(st.booleans())
        shape: list[Any] = draw(st.lists(st.integers(0, 4) if honest else SIZES, max_size=4))
        size = 2
        for side in shape if honest else ():
            size *= side
        span = [offset, offset + size] if honest else draw(st.lists(SIZES, min_size=0, max_size=3))
        offset += size if honest else 0
        entry: Any = {"dtype": "F16" if honest else draw(DTYPE_WORDS), "shape": shape, "data_offsets": span}
        if not honest and draw(st.integers(0, 5)) == 0:
            entry = draw(values)
        header[name] = entry
    if draw(st.booleans()):
        header["__metadata__"] = draw(
            metadata | st.dictionaries(keys | commanding, st.text(max_size=9) | commanding, max_size=3) | values
        )
    text = json.dumps(header)
    match draw(st.sampled_from(["whole"] * 4 + ["twice", "deep", "cut", "nan", "spaces", "flood"])):
        case "flood":
            text = draw(floods)
        case "twice":
            text = text[:-1] + (", " if header else "") + text[1:]
        case "deep":
            text = '{"a": ' + "[" * draw(st.sampled_from([100, 5000, 100_000])) + "}"
        case "cut":
            text = text[: draw(st.integers(0, len(text)))]
        case "nan":
            text = text.replace("0", "NaN")
        case "spaces":
            text += " " * 9
    raw = text.encode("utf-8", "surrogatepass")
    length = draw(
        st.just(len(raw)) | st.just(len(raw)) | st.sampled_from([0, 1, 7, len(raw) + 1, 2**31, 2**50, 2**63, 2**64 - 1])
    )
    whole = struct.pack("<Q", length) + raw + (b"\0" * offset if draw(st.booleans()) else data)
    return whole[: draw(st.just(len(whole)) | st.integers(0, len(whole)))]


OPCODES = (
    b"cos\nsystem\n", b"c__builtin__\neval\n", b"cbuiltins\ngetattr\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n", b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n", b"X\x0c\0\0\0touch hacked", b"V../../x\n", b"\x8c\x05posix\x8c\x06system\x93",
    b"\x85", b"R", b"(", b"t", b"}", b"]", b")", b"b", b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"N", b"K\x01",
    b"h\0", b"q\0",
    b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"\x8d\0\0\0\0\0\0\x04\0", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x95\0\0\0\0\0\0\x04\0", b"B\xff\xff\xff\xff", b"\x8a\xff" + b"\xff" * 255, b"\x8b\xff\xff\xff\x7f", b"Pid\n",
    b"Q", b"\x81", b"\x92", b"oR", b"\x94", b"\x91", b"I99999999999999999999\n", b"Fnan\n", b"L9L\n", b"S'x'\n", b".",
)  # fmt: skip


WRAPPED_IN = st.sampled_from(["state_dict", "model", "module", "x", 7])
bombs = st.one_of(  # files that take far more to read than their size
    st.builds(cycle, st.integers(1, 5), WRAPPED_IN),
    COUNTS.map(lambda count: wide(min(count, 1000))),
    COUNTS.map(lambda count: program(b"}(" + b")" + b"\x85" * count + b"K\x01u")),
    COUNTS.map(lambda count: b"\x80\x02}(" + b")" + b"\x85" * count + b"K\x01u."),
    COUNTS.map(lambda count: program(b"}", {"data/0": bytes(50 * count)}, packed=True)),
    COUNTS.map(lambda count: program(b"N0" * count + b"}", packed=True)),
    COUNTS.map(lambda count: program(b"]" + b"]" * count + b"a" * count)),
)


@st.composite
def pickle_files(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a file that torch might be asked to load: pickle programs, valid pickles of odd values, damaged files.

    Args:
        good: a file written by torch.save.
    """
    body = draw(st.lists(st.sampled_from(OPCODES), max_size=30).map(b"".join))
    program = bytes([0x80, draw(st.integers(0, 6))]) + body + b"." * draw(st.integers(0, 1))
    match draw(st.sampled_from(["program", "plain", "zip", "zip", "torn", "flipped", "bytes", "bomb"])):
        case "bomb":
            bomb_file: bytes = draw(bombs)
            return bomb_file
        case "program":
            return program
        case "plain":
            return pickle.dumps(draw(values), protocol=draw(st.integers(0, 5)))
        case "zip":
            return zipped(
                good, {draw(st.sampled_from(["data.pkl", "version", "data/0", "../../x", "byteorder"])): program}
            )
        case "torn":
            start, stop = sorted(draw(st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))))
            return good[:start] + good[stop:]
        case "flipped":
            flipped = bytearray(good)
            for index in draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=6)):
                flipped[index] = draw(st.integers(0, 255))
            return bytes(flipped)
    return draw(st.sampled_from([b"", b"PK\x03\x04", b"\x80", b"\x80\x02", b"GGUF"])) + draw(st.binary(max_size=60))


def zipped(good: bytes, changes: Mapping[str, bytes]) -> bytes:
    """Return a file of torch.save with some of its records replaced or added."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(target, "w") as archive:
        folder = source.namelist()[0].split("/")[0]
        records = {name.removeprefix(f"{folder}/"): source.read(name) for name in source.namelist()} | dict(changes)
        for name, content in records.items():
            archive.writestr(f"{folder}/{name}", content)
    return target.getvalue()
