"""Weight files: finding, downloading, checking and opening them.

Every download has a digest, pinned here or kept by the Hugging Face hub. No file is opened in a way that could run
code. A machine without a network gets an error within seconds that says which file to put where. torch is imported
late, because fast commands read this table.
"""

from __future__ import annotations

import pickle
import threading
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from basics.files import open_to_write, replacing, sha256_of
from basics.foreign import in_place_of_model, names_in_torch_file, opened_zip, torch_reason
from basics.messages import counted, first_line
from scorers.errors import MissingWeightsError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PROBE_TIMEOUT_S = 5.0  # until a server answers at all
READ_TIMEOUT_S = 10.0  # for connecting, and for each read of a download
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A public weight file, pinned by its digest."""

    title: str  # for messages
    name: str  # file name in the cache
    url: str
    sha256: str
    size_bytes: int
    licence: str
    setting: str  # option of the scorer that names a local copy


# Several independent public projects pin this digest, among them birder, which serves its own copy, and
# fusion-vision-mcp, which checked the file at the commit below. One of them pins the size. Looked up on 2026-11-20.
AESTHETIC_V2 = WeightFile(
    title="LAION aesthetic head v2",
    name="sac+logos+ava1-l14-linearMSE.pth",
    url="https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
    "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    size_bytes=3_714_759,
    licence="Apache-2.0",
    setting="head",
)

# The file's name contains the first eight digits of the digest. Several independent public projects record the whole
# digest, and two of them the size. Looked up on 2026-11-20.
FID_INCEPTION = WeightFile(
    title="FID Inception of 2015-12-05",
    name="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size_bytes=95_628_359,
    licence="Apache-2.0",
    setting="weights",
)


def existing_file(path: Path, setting: str) -> Path:
    """Return `path` if it is a file.

    Args:
        setting: option that named the path, for the message.

    Raises:
        MissingWeightsError: it is not a file.
    """
    if not path.is_file():
        raise MissingWeightsError(f"no weight file at {path}, named by option {setting!r}: correct the path")
    return path


def resolve(path: Path | None, wanted: WeightFile, cache_dir: Path) -> Path:
    """Return a local copy of a weight file: the user's own, or else the cached one, or else a download.

    The user's own file is not checked, because it may be another version. The cached and the downloaded file must have
    the pinned digest.

    Args:
        path: the user's own file, if there is one.
        wanted: the weight file.
        cache_dir: folder of downloaded files.

    Raises:
        MissingWeightsError: there is no such file, and it cannot be downloaded.
        WrongWeightsError: the cached or downloaded file has another digest.
    """
    if path is not None:
        return existing_file(path, wanted.setting)
    target = cache_dir / wanted.name
    if target.is_file():
        _check_digest(target, wanted, f"delete {target} and try again")
        return target
    if not answers(wanted.url):
        raise MissingWeightsError(_how_to_get(wanted, target, "its server did not answer"))
    try:
        _download(wanted, target)
    except urllib.error.HTTPError as answer:
        answer.close()  # an error response keeps its connection open
        raise MissingWeightsError(_how_to_get(wanted, target, f"its server answered {answer}")) from answer
    except OSError as error:  # includes urllib's other errors and time-outs
        raise MissingWeightsError(_how_to_get(wanted, target, f"the download failed ({error})")) from error
    return target


def resolve_hub_file(repository: str, names: Sequence[str], *, title: str, advice: str) -> Path:
    """Return the first of `names` that a Hugging Face repository has, from the local hub cache if it is there.

    Without a network, the hub's client retries for most of a minute. So the cache is checked first, and the client is
    only used once the hub has answered.

    Args:
        repository: owner/name.
        names: file names, most preferred first.
        title: of the weights, for messages.
        advice: what to do with a file that was fetched by hand, for messages.

    Raises:
        MissingWeightsError: the file is not in the cache and cannot be downloaded.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    cached = cached_hub_file(repository, names)
    if cached is not None:
        return cached
    page = f"{constants.ENDPOINT}/{repository}"
    missing = f"{title} ({names[0]}) is not in the hub cache {constants.HF_HUB_CACHE} and"
    if constants.HF_HUB_OFFLINE:
        raise MissingWeightsError(f"{missing} HF_HUB_OFFLINE is set: fetch it from {page}, then {advice}")
    if not answers(constants.ENDPOINT):
        raise MissingWeightsError(f"{missing} the hub did not answer: fetch it from {page}, then {advice}")
    for name in names:
        try:
            # The newest revision, like open_clip: only files that a spec names by path are compared by content.
            file = huggingface_hub.hf_hub_download(repository, name)  # nosec B615
            return Path(file)
        except errors.EntryNotFoundError:
            continue
        except (errors.HfHubHTTPError, OSError) as error:
            reason = first_line(error)
            raise MissingWeightsError(
                f"{missing} the download failed ({reason}): fetch it from {page}, then {advice}"
            ) from error
    raise MissingWeightsError(f"{missing} {page} holds none of {', '.join(names)}: {advice}")


def cached_hub_file(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of `names` in the local cache of a Hugging Face repository; None if it has none.

    Args:
        repository: owner/name.
    """
    import huggingface_hub

    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None


def answers(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether the server of `url` answers at all, if only with an error, within the time limit.

    The request runs on its own thread, because looking up a host name has no time limit.
    """
    reached = threading.Event()
    finished = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - addresses are from our own tables
        try:
            with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
                reached.set()
        except urllib.error.HTTPError as answer:
            answer.close()
            reached.set()
        except OSError:
            pass
        finally:
            finished.set()

    threading.Thread(target=ask, daemon=True, name="network probe").start()
    finished.wait(timeout_s)
    return reached.is_set()


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the format in which OpenAI published CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with opened_zip(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # `load_tensors` says what is wrong with it
        return False


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load the named tensors of a .safetensors file, or of a torch file with weights_only=True, onto the CPU.

    A mapping {"state_dict": ...} is unwrapped.

    Raises:
        WrongWeightsError: the file is damaged, or does not hold a flat mapping of names to tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (left := in_place_of_model(path)) is not None:
        raise WrongWeightsError(f"{path} {left}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        names_in_torch_file(path, zipped=zipfile.is_zipfile(path))  # bounds what it may cost
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        zipfile.BadZipFile,
    ) as error:
        reason = torch_reason(error)
        if "GLOBAL torch.nn.modules." in str(error):
            reason = "a whole module was saved instead of its state_dict()"
        raise WrongWeightsError(
            f"{path} cannot be opened as a file of plain tensors ({reason}): give another file"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    named = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not named or not content:
        raise WrongWeightsError(f"{path}: expected named tensors, got {_describe(content)}: give another file")
    return dict(content)


def _describe(content: object) -> str:
    if isinstance(content, dict) and not content:
        return "an empty mapping"
    if isinstance(content, dict) and {"state", "param_groups"} <= content.keys():
        return "the state of an optimizer, from which training goes on"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {counted(len(content), 'element')} without names"
    if isinstance(content, dict):
        others = sorted({type(value).__name__ for value in content.values()} - {"Tensor"})
        return f"a mapping with {', '.join(others)}"
    return f"a {type(content).__name__}"


def _how_to_get(wanted: WeightFile, target: Path, reason: str) -> str:
    file = f"{wanted.name}, {wanted.size_bytes / 1e6:.1f} MB, {wanted.licence}"
    return (
        f"{wanted.title} ({file}) is not on this machine and {reason}: "
        f"put {wanted.url} at {target}, or name a local copy with option {wanted.setting!r}"
    )


def _check_digest(path: Path, wanted: WeightFile, advice: str) -> None:
    sha256 = sha256_of(path)
    if sha256 != wanted.sha256:
        raise WrongWeightsError(
            f"{wanted.title}: expected sha256 {wanted.sha256}, {path.name} has {sha256} "
            f"({path.stat().st_size} of {wanted.size_bytes} bytes): {advice}"
        )


def _download(wanted: WeightFile, target: Path) -> None:
    """Download to a temporary file, check it, then rename it: `target` is whole and correct, or does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        with open_to_write(partial) as file:
            _fetch(wanted, file)
        _check_digest(
            partial,
            wanted,
            f"the file at {wanted.url} has changed, or a proxy answered instead: try again, or fetch it by hand",
        )


def _fetch(wanted: WeightFile, file: IO[bytes]) -> None:
    """Download into a file, with a progress bar on stderr; stop if it is longer than expected."""
    from rich.console import Console
    from rich.progress import Progress

    source = urllib.request.urlopen(wanted.url, timeout=READ_TIMEOUT_S)  # noqa: S310 - from our own table, digest checked
    with source, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"downloading {wanted.name}", total=wanted.size_bytes)
        received = 0
        while received <= wanted.size_bytes and (chunk := source.read(_CHUNK_BYTES)):
            file.write(chunk)
            received += len(chunk)
            progress.update(task, completed=received)
