"""Whether the folders that a suite names are there: told without torch, before anything is opened."""

from __future__ import annotations

from pathlib import Path

from optimizer.errors import PromptError
from studies.spec.suite import SuiteSettings


def require_folders_of(suite: SuiteSettings) -> None:
    """Refuse a suite whose folder of embeddings or of LoRAs is not there.

    Raises:
        PromptError: one is not.
    """
    if suite.embeddings is not None:
        require_embeddings_at(suite.embeddings)
    if suite.lora_folder is not None:
        require_lora_folder_at(suite.lora_folder)


def require_embeddings_at(folder: Path) -> None:
    """Refuse a path of `embeddings` that is no folder.

    Raises:
        PromptError: it is none.
    """
    if not folder.is_dir():
        raise PromptError(f"embeddings: {folder} is no folder: name the folder that the embeddings are in")


def require_lora_folder_at(folder: Path) -> None:
    """Refuse a path of `lora_folder` that is no folder.

    Raises:
        PromptError: it is none.
    """
    if not folder.is_dir():
        raise PromptError(f"lora_folder: {folder} is no folder: name the folder that the LoRAs are in")
