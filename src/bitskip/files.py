"""Writing files so that nothing half-written stays behind: to a temporary name, then renamed."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitskip.errors import FileFormatError, RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once, creating its folder; raises RunError if that is not possible.

    Of a symbolic link the file that it names is replaced. A device or a pipe stays one, and is written to.
    """
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                stream.write(content)
            return
        if path.is_symlink():
            path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) at once."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Replace `path` by `values` as indented JSON at once."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, with a byte order mark or not, or UTF-16 with one (PowerShell's `>`).

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not text.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def read_json(path: Path) -> Any:
    """Return the values of a JSON file; raises FileFormatError if it cannot be read or parsed."""
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not valid JSON: {error}") from None


def file_digest(path: Path) -> str:
    """Return a short SHA-256 of a file's content; raises RunError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None


def require_writable(folder: Path) -> None:
    """Create `folder` and make sure that files can be written there; raises RunError if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"cannot write to {folder}: {error.strerror or error}; choose another folder with --out"
        ) from None


def keep_settings(path: Path, asked: Mapping[str, Any], what: str) -> None:
    """Write what a folder's work was asked for, or compare with what it was; `what` names the work in errors.

    Raises:
        RunError: if the folder holds work that was asked for otherwise, naming the keys that differ.
    """
    if path.is_file():
        known = read_json(path)
        differing = [key for key in asked if not isinstance(known, dict) or known.get(key) != asked[key]]
        if differing:
            raise RunError(
                f"{path.parent} holds {what} with another {', '.join(differing)}; "
                f"use the settings in {path}, or another --out"
            )
    write_json(path, dict(asked))
