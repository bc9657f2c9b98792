"""Packed models to and from the Hugging Face Hub, through the package huggingface_hub (extra `hub`).

Its own settings hold: `HF_ENDPOINT` names another hub, `HF_TOKEN` who asks, `HF_HOME` where
downloads are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitskip.errors import DataError, FileFormatError, RunError, nearest
from bitskip.program import Program
from bitskip.runtime import Model, load
from bitskip.zoo import card_of, model_path, zoo_names
from bitskip.zoo.model_card import file_card, zoo_card

ENDING = ".bitskip"


def load_from_hub(
    repository: str,
    filename: str | None = None,
    *,
    revision: str | None = None,
    threads: int = 1,
    engine: str = "auto",
) -> Model:
    """Return the model in a repository of the Hub; see `fetch_from_hub` and `bitskip.load`.

    Raises:
        RunError: without huggingface_hub or without a network.
        DataError: for a repository, revision or file that is not there.
        FileFormatError: if the file does not hold together.
    """
    return load(fetch_from_hub(repository, filename, revision=revision), threads=threads, engine=engine)


def fetch_from_hub(repository: str, filename: str | None = None, *, revision: str | None = None) -> Path:
    """Return the path of a packed file of a repository, downloaded if it is not there yet.

    Args:
        repository: `USER/NAME`.
        filename: of the packed file; may be left out where the repository holds one.
        revision: branch, tag or commit; the main branch if not given.

    Raises:
        RunError: without huggingface_hub or without a network.
        DataError: for a repository, revision or file that is not there, or several files to choose from.
    """
    hub = _hub("load_from_hub")
    with _told(repository, revision, filename):
        if filename is None:
            filename = _only_file(repository, hub.HfApi().list_repo_files(repository, revision=revision))
        return Path(hub.hf_hub_download(repository, filename, revision=revision))


def push_to_hub(
    model: str | Path,
    repository: str,
    *,
    card: str | None = None,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Put a packed file and its card into a repository of the Hub, and return the address of the commit.

    The repository is made if it is not there. A README.md in it is kept, unless `card` is given.

    Args:
        model: path of a `*.bitskip` file, or a name of the zoo.
        repository: `USER/NAME`.
        card: text of README.md; if not given, the zoo's card, or for other files one that says what the file
            says.
        private: whether a new repository is private.
        revision: branch to write to; the main branch if not given.

    Raises:
        RunError: without huggingface_hub, without a network, or without leave to write.
        FileFormatError: if the file cannot be read or does not hold together.
    """
    hub = _hub("push_to_hub")
    path, own_card = _packed(model)
    with _told(repository, revision, None):
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        files = [hub.CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=str(path))]
        if card is not None or not api.file_exists(repository, "README.md", revision=revision):
            text = (card or own_card).replace("USER/REPOSITORY", repository)
            files.append(hub.CommitOperationAdd("README.md", text.encode("utf-8")))
        done = api.create_commit(repository, files, commit_message=f"Add {path.name}", revision=revision)
    return str(done.commit_url)


def _packed(model: str | Path) -> tuple[Path, str]:
    """Return the file, after reading it, and its card."""
    if isinstance(model, str) and model in zoo_names():
        return model_path(model), zoo_card(card_of(model))
    path = Path(model)
    if path.suffix != ENDING:
        raise FileFormatError(
            f"'{model}' is not a packed model; expected a file *{ENDING} (`bitskip pack` writes one) or a "
            f"name of the zoo{nearest(str(model), zoo_names())}"
        )
    program = Program.load(path)
    return path, file_card(program, path.name, path.stat().st_size)


def _only_file(repository: str, files: list[str]) -> str:
    packed = sorted(name for name in files if name.endswith(ENDING))
    if len(packed) == 1:
        return packed[0]
    if not packed:
        raise DataError(f"repository '{repository}' has no file *{ENDING}; is it one that push_to_hub wrote?")
    raise DataError(
        f"repository '{repository}' has {len(packed)} packed files; name one of {', '.join(packed)}"
    )


def _hub(asked: str) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise RunError(
            f"{asked} needs huggingface_hub, of bitskip's extra `hub`, which is not installed; "
            'pip install "huggingface_hub>=1.0"'
        ) from None
    return huggingface_hub


@contextmanager
def _told(repository: str, revision: str | None, filename: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError:
        raise DataError(f"'{repository}' is not the name of a repository; expected USER/NAME") from None
    except errors.GatedRepoError:
        raise DataError(
            f"repository '{repository}' is gated: ask for access on its page, then set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"there is no repository '{repository}' at {constants.ENDPOINT}; if it is private, set HF_TOKEN "
            "or log in (`hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise DataError(f"repository '{repository}' has no revision '{revision}'") from None
    except errors.LocalEntryNotFoundError:
        raise RunError(_unreachable(repository, constants.ENDPOINT)) from None
    except errors.EntryNotFoundError:
        raise DataError(f"repository '{repository}' has no file '{filename}'") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise RunError(
                f"no leave to write to '{repository}': set HF_TOKEN to a token that may write, or log in "
                "(`hf auth login`)"
            ) from None
        raise RunError(f"{constants.ENDPOINT} answered {status} for '{repository}'; try later") from None
    except Exception as error:
        # The HTTP client below is httpx or httpx2, as the version of huggingface_hub has it.
        if isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx"):
            raise RunError(_unreachable(repository, constants.ENDPOINT)) from None
        raise


def _unreachable(repository: str, endpoint: str) -> str:
    return (
        f"cannot reach {endpoint} for '{repository}', and it is not among the earlier downloads; check the "
        "network, or load a file of your own (bitskip.load)"
    )
