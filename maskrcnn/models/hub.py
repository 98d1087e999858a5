"""Weights in safetensors files, and from the Hugging Face Hub (``hf://user/repo/file``)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, SUFFIX = "hf://", ".safetensors"
_ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_KEY = "maskrcnn"  # key of the json in a file's metadata


def local_path(source: str | Path) -> Path:
    """Return the file that ``source`` names, downloading it from the Hub if necessary.

    Args:
        source: a path, or ``hf://user/repo/file`` or ``hf://user/repo@revision/file``. Downloads stay in the cache of
            huggingface_hub (``HF_HOME``) and are not repeated. ``HF_ENDPOINT`` names another server.

    Raises:
        UserError: malformed address, missing repository or file, unreachable server, or huggingface_hub is not
            installed.
    """
    text = str(source)
    return _downloaded(text) if text.startswith(PREFIX) else Path(source)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file to the CPU.

    Returns:
        The tensors by name, and the argument ``about`` of `write_tensors`.

    Raises:
        UserError: the file cannot be read, or safetensors is not installed.
    """
    safe_open = _safetensors().safe_open
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dictionary
            about = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except Exception as error:  # safetensors' exception class is only known after the lazy import
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    return tensors, about


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file.

    Args:
        path: the file. It is replaced atomically.
        tensors: by name.
        about: plain values to store with them, as json.

    Raises:
        UserError: safetensors is not installed.
    """
    _safetensors()
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.partial")
    apart = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(apart, partial, {"format": "pt", _KEY: json.dumps(about)})
    partial.replace(path)


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise UserError(
            "files of safetensors need the package safetensors: pip install 'maskrcnn[hub]'"
        ) from error
    return safetensors


def _downloaded(address: str) -> Path:
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UserError(f"{address}: expected hf://user/repo/file, or hf://user/repo@revision/file")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise UserError(
            f"{address} needs the package huggingface_hub: pip install 'maskrcnn[hub]'"
        ) from error
    repo, file, revision = found["repo"], found["file"], found["revision"]
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        return Path(hf_hub_download(repo, file, revision=revision, endpoint=endpoint))
    except errors.GatedRepoError as error:
        reason = f"the repository {repo} is gated: accept its terms on its page and log in (hf auth login)"
        raise UserError(f"{address}: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = f"there is no repository {repo}; of a private one, log in first (hf auth login)"
        raise UserError(f"{address}: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{address}: the repository {repo} has no revision {revision}") from error
    except errors.LocalEntryNotFoundError as error:  # first, because it is a subclass of the next one
        raise UserError(_unreachable(address, error.__cause__ or error)) from error
    except errors.EntryNotFoundError as error:
        reason = f"the repository {repo} has no file {file}; its page lists the files"
        raise UserError(f"{address}: {reason}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{address}: {error}") from error
    except OSError as error:  # connection or disk
        raise UserError(_unreachable(address, error)) from error


def _unreachable(address: str, error: BaseException) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{address} could not be downloaded ({reason}), and is not in the cache. Download the file on a machine with "
        "a network and give its path instead"
    )
