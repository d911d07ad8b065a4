"""A bundle uploaded to a repository of the model hub."""

import shlex
import warnings
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pmm.bundle.layout import NOT_ALWAYS
from pmm.errors import InputError
from pmm.shards.hub import first_line
from pmm.version import __version__

_REFUSED = {
    401: "it does not know the token: log in with hf auth login, or set HF_TOKEN",
    403: "the token may not write there: make one that may, or choose another repository",
    404: "there is no such account, or the token may not see it",
}


def require_repository(repository: str) -> None:
    """Refuse before a bundle is made what cannot be uploaded.

    Raises:
        InputError: no name of a repository, or nobody is logged in.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push-to {repository!r} names no repository: {error}") from error
    if "/" not in repository:
        raise InputError(f"--push-to {repository!r} names no repository: write OWNER/NAME")
    if huggingface_hub.get_token() is None:
        raise InputError(
            "--push-to needs a token of the model hub that may write: log in with hf auth login, "
            "or set HF_TOKEN"
        )


def push_bundle(place: Path, repository: str) -> str:
    """Upload a bundle; the repository is made, a private one, where there is none.

    What an earlier bundle had there and this one has not (test users, pictures, graphs) is removed;
    other files of the repository stay, and so does its history.

    Args:
        place: the bundle's folder.
        repository: "OWNER/NAME".

    Returns:
        The address of the last commit.

    Raises:
        InputError: the hub cannot be reached, or does not take it; the bundle stays where it is.
    """
    hub = huggingface_hub.HfApi(library_name="pmmrec", library_version=__version__)
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        with warnings.catch_warnings():
            # The client doubts that tables belong beside a model: these do.
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            done = hub.upload_folder(
                repo_id=repository,
                folder_path=place,
                commit_message=f"Bundle of pmm {__version__}",
                delete_patterns=list(NOT_ALWAYS),
            )
    except Exception as error:  # the HTTP client underneath raises its own kinds
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        why = _REFUSED.get(status, first_line(error))
        again = shlex.join(["hf", "upload", repository, str(place)])
        raise InputError(
            f"{repository} was not uploaded ({why}). The bundle is whole in {place}; when that is "
            f"mended, run: {again}"
        ) from error
    return str(done.commit_url)
