"""`stockpot.push`: a run's model on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from stockpot.api.learnt_models import learnt_index
from stockpot.errors import StockpotError
from stockpot.report.formatting import opening
from stockpot.runs.folder import RunFolder
from stockpot.runs.upload import staged_upload
from stockpot.version import __version__

if TYPE_CHECKING:
    from stockpot.runs.upload import Upload


class PushOptions(TypedDict, total=False):
    """The options of `push`, which see."""

    after: str | None
    private: bool
    revision: str | None
    commit_message: str | None
    create_pr: bool
    base: str | None
    licence: str | None
    dry_run: bool


class InFolder(Protocol):
    """A run that knows its folder, such as `stockpot.open` returns."""

    @property
    def path(self) -> Path:
        """The folder."""


@dataclass(frozen=True)
class Pushed:
    """What went up, or would have: `url` is the commit's or the pull request's, None where nothing was uploaded."""

    repo_id: str
    url: str | None
    files: Mapping[str, int]  # name → bytes
    left_out: tuple[str, ...]
    commit_message: str
    card: str

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def push(
    run: InFolder | str | os.PathLike[str],
    repo_id: str,
    *,
    after: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    base: str | None = None,
    licence: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Uploads a model of a run to the Hugging Face Hub in one commit, with a card that has its scores.

    What goes up is checked first: files of a model and nothing else, as the journal recorded them, without pickles,
    access tokens or paths of this machine. A repository that is missing is made.

    Args:
        run: the run, or its folder.
        repo_id: NAME or OWNER/NAME; without an owner it is yours.
        after: the name of a task, or `start` for the model before the first one; default: the newest task learnt.
        private: make a new repository private; one that exists must be.
        revision: a branch, which is made if it is missing; default: main.
        commit_message: default: the method, and how many tasks were learnt.
        create_pr: open a pull request to an existing repository instead.
        base: the name on the hub of the model that an adapter sits on, or that the run started from.
        licence: the hub's name of one (apache-2.0, mit, …); default: that of the base, as its card says.
        dry_run: check everything, and neither log in nor upload.

    Returns:
        What went up, or would have.

    Raises:
        StockpotError: something may not go up, nobody is logged in, or the hub refuses.
    """
    _check_options(repo_id, private, revision, create_pr)
    folder = RunFolder.open(Path(run) if isinstance(run, str | os.PathLike) else run.path)
    index = learnt_index(folder, after)
    message = commit_message or _message(folder, index)
    if dry_run:
        with staged_upload(folder, index, repo_id, base, licence) as upload:
            return _pushed(repo_id, None, upload, message)
    from huggingface_hub import HfApi

    api = HfApi()
    with explaining_hub_errors(repo_id):
        repo = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        with staged_upload(folder, index, repo, base, licence) as upload:  # raises before the hub is asked for anything
            api.whoami()  # raises where nobody is logged in, which the next call would word worse
            if not create_pr:
                _make_place(api, repo, private, revision)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=upload.folder,
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
            )
            return _pushed(repo, str(commit.pr_url or commit.commit_url), upload, message)


def _check_options(repo_id: str, private: bool, revision: str | None, create_pr: bool) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise StockpotError(f"{repo_id}: not a name on the hub: {str(error).splitlines()[0]}") from error
    if Path(repo_id).is_dir():
        raise StockpotError(f"{repo_id}: this is a folder; name a repository on the hub, OWNER/NAME.")
    if create_pr and (private or revision is not None):
        raise StockpotError(
            "a pull request goes to the main branch of an existing repository: drop private and revision."
        )


def _message(run: RunFolder, index: int) -> str:
    method = opening(run.recipe.method.title)
    learnt = f"{method} after {index + 1} of {len(run.tasks)} tasks" if index >= 0 else "Start model"
    return f"{learnt}, by Stockpot {__version__}"


def _make_place(api: Any, repo: str, private: bool, revision: str | None) -> None:
    """The repository and the branch. Raises StockpotError where what should be private would be public."""
    api.create_repo(repo, private=private, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise StockpotError(f"{repo}: the repository exists and is public; choose another, or drop private.")
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)


def _pushed(repo: str, url: str | None, upload: Upload, message: str) -> Pushed:
    card = (upload.folder / "README.md").read_text(encoding="utf-8")
    return Pushed(repo, url, dict(upload.files), upload.left_out, message, card)


@contextlib.contextmanager
def explaining_hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the hub's library raises into one line with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except StockpotError:
        raise
    except LocalTokenNotFoundError as error:
        raise StockpotError(_LOGIN) from error
    except OfflineModeIsEnabled as error:
        raise StockpotError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or see what would go up with --dry-run."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise StockpotError(_LOGIN) from error
        said = getattr(error, "server_message", None) or next(iter(str(error).splitlines()), "no reason given")
        remedy = "; does your token have the right to write there?" if status == 403 else ""
        raise StockpotError(f"{repo_id}: the hub refuses: {said}{remedy}") from error
    except Exception as error:
        if not any(kind.__name__ in ("HTTPError", "RequestException") for kind in type(error).__mro__):
            raise
        raise StockpotError(f"{repo_id}: the hub cannot be reached: {error}") from error


_LOGIN = "nobody is logged in to the hub: run `hf auth login`, or set HF_TOKEN, with a token that may write."
