"""Finding and downloading weight files.

Every download has a digest, pinned here or kept by the Hugging Face hub. A machine without a network gets an error
within seconds that says which file to put where.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from basics.files import open_to_write, replacing, sha256_of
from basics.messages import first_line
from scorers.errors import MissingWeightsError, WrongWeightsError
from scorers.weights.public import HubFile, PublicFile

PROBE_TIMEOUT_S = 5.0  # until a server answers at all
READ_TIMEOUT_S = 10.0  # for connecting, and for each read of a download
_CHUNK_BYTES = 1 << 20


def existing_file(path: Path, setting: str) -> Path:
    """Return `path` if it is a file.

    Args:
        setting: option that named the path, for the message.

    Raises:
        MissingWeightsError: it is not a file.
    """
    if path.is_dir():
        raise MissingWeightsError(f"{path}, named by option {setting!r}, is a folder: give the file itself")
    if not path.is_file():
        raise MissingWeightsError(f"no file at {path}, named by option {setting!r}: correct the path")
    return path


def resolve(path: Path | None, wanted: PublicFile | HubFile, cache_dir: Path) -> Path:
    """Return a local copy of a weight file: the user's own, or else the cached one, or else a download.

    The user's own file is not checked, because it may be another version. The cached and the downloaded file must have
    the pinned digest, if there is one.

    Args:
        path: the user's own file, if there is one.
        wanted: the public file.
        cache_dir: folder of downloaded files.

    Raises:
        MissingWeightsError: there is no such file, and it cannot be downloaded.
        WrongWeightsError: the cached or downloaded file has another digest.
    """
    if path is not None:
        return existing_file(path, wanted.setting)
    if isinstance(wanted, HubFile):
        return resolve_hub_file(wanted, f"name the file with option {wanted.setting!r}")
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


def resolve_hub_file(wanted: HubFile, advice: str) -> Path:
    """Return a file of the Hugging Face hub, from its local cache if it is there.

    Without a network, the hub's client retries for most of a minute. So the cache is checked first, and the client is
    only used once the hub has answered.

    Args:
        wanted: the file; the first of its names that the repository has is taken.
        advice: what to do with a file that was fetched by hand, for messages.

    Raises:
        MissingWeightsError: the file is not in the cache and cannot be downloaded.
        WrongWeightsError: it has another digest than the pinned one.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    cached = wanted.find(Path())
    if cached is not None:
        return _pinned(cached, wanted)
    page = f"{constants.ENDPOINT}/{wanted.repository}"
    missing = f"{wanted.title} ({wanted.names[0]}) is not in the hub cache {constants.HF_HUB_CACHE} and"
    if constants.HF_HUB_OFFLINE:
        raise MissingWeightsError(f"{missing} HF_HUB_OFFLINE is set: fetch it from {page}, then {advice}")
    if not answers(constants.ENDPOINT):
        raise MissingWeightsError(f"{missing} the hub did not answer: fetch it from {page}, then {advice}")
    for name in wanted.names:
        try:
            file = huggingface_hub.hf_hub_download(wanted.repository, name, revision=wanted.revision)  # nosec B615
            return _pinned(Path(file), wanted)
        except errors.EntryNotFoundError:
            continue
        except (errors.HfHubHTTPError, OSError) as error:
            reason = first_line(error)
            raise MissingWeightsError(
                f"{missing} the download failed ({reason}): fetch it from {page}, then {advice}"
            ) from error
    raise MissingWeightsError(f"{missing} {page} holds none of {', '.join(wanted.names)}: {advice}")


def _pinned(path: Path, wanted: HubFile) -> Path:
    """Return `path` if it has the pinned digest, or none is pinned."""
    if wanted.sha256 is not None:
        _check_digest(path, wanted, f"delete {path} and try again")
    return path


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


def _how_to_get(wanted: PublicFile, target: Path, reason: str) -> str:
    file = f"{wanted.name}, {wanted.size_bytes / 1e6:.1f} MB, {wanted.licence}"
    return (
        f"{wanted.title} ({file}) is not on this machine and {reason}: "
        f"put {wanted.url} at {target}, or name a local copy with option {wanted.setting!r}"
    )


def _check_digest(path: Path, wanted: PublicFile | HubFile, advice: str) -> None:
    sha256 = sha256_of(path)
    if sha256 != wanted.sha256:
        raise WrongWeightsError(
            f"{wanted.title}: expected sha256 {wanted.sha256}, {path.name} has {sha256} "
            f"({path.stat().st_size} of {wanted.size_bytes} bytes): {advice}"
        )


def _download(wanted: PublicFile, target: Path) -> None:
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


def _fetch(wanted: PublicFile, file: IO[bytes]) -> None:
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
