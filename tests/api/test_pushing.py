"""`stockpot.push`: exactly these calls to the hub, and nothing of anybody else's goes up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

import stockpot
from stockpot.api.run_result import RunResult
from stockpot.cli import main
from stockpot.errors import StockpotError
from stockpot.runs.upload import _check_contents
from stockpot.version import __version__

COMMIT = "https://huggingface.co/acme/digits/commit/1"
FILES = {"README.md", "model.safetensors", "stockpot_model.json"}
MESSAGE = f"Sequential fine-tuning after 2 of 2 tasks, by Stockpot {__version__}"


class StandIn:
    """Takes what `huggingface_hub.HfApi` is asked, and answers as the hub does."""

    def __init__(self, public: bool = True, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.content: dict[str, bytes] = {}
        self.public, self.error = public, error

    def whoami(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.calls.append(("whoami", {}))
        return {"name": "acme"}

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def create_branch(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_branch", {"repo_id": repo_id, **options}))

    def repo_info(self, repo_id: str) -> Any:
        self.calls.append(("repo_info", {"repo_id": repo_id}))
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
        self.calls.append(("upload_folder", options))
        self.content = {file.name: file.read_bytes() for file in folder_path.iterdir()}
        pull = "https://huggingface.co/acme/digits/discussions/1" if options["create_pr"] else None
        return SimpleNamespace(commit_url=COMMIT, pr_url=pull)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    """`hub(public=False)`: the hub from now on."""

    def replace(**answers: Any) -> StandIn:
        stand_in = StandIn(**answers)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stand_in)
        return stand_in

    return replace


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(finished.path, tmp_path / "run")


def upload(**options: Any) -> tuple[str, dict[str, Any]]:
    expected = {"repo_id": "acme/digits", "commit_message": MESSAGE, "revision": None, "create_pr": False, **options}
    return "upload_folder", expected


def test_a_repository_is_made_and_one_commit_holds_the_model_and_its_card(
    finished: RunResult, hub: Callable[..., StandIn]
) -> None:
    asked = hub()
    done = finished.push("digits")
    assert asked.calls == [
        ("whoami", {}),  # whose it is
        ("whoami", {}),
        ("create_repo", {"repo_id": "acme/digits", "private": False, "exist_ok": True}),
        upload(),
    ]
    assert asked.content.keys() == FILES == done.files.keys()
    assert (done.repo_id, done.url, done.commit_message) == ("acme/digits", COMMIT, MESSAGE)
    assert {name: len(content) for name, content in asked.content.items()} == done.files
    model = finished.model_folder() / "model.safetensors"
    assert asked.content["model.safetensors"] == model.read_bytes()
    assert asked.content["README.md"].decode() == done.card
    assert sum(done.files.values()) == done.total_bytes


def test_the_card_has_every_score_in_the_hubs_schema(finished: RunResult, tmp_path: Path) -> None:
    done = stockpot.push(finished.path, "acme/digits", dry_run=True, licence="mit")
    card = ModelCard(done.card)
    scores = finished.results.scores["accuracy"].matrix[-1]
    measured = [result for result in card.data.eval_results if result.metric_type == "accuracy"]
    assert [(result.dataset_name, result.metric_value) for result in measured] == [
        (task, round(value, 6)) for task, value in zip(finished.results.tasks, scores, strict=True) if value is not None
    ]
    assert card.data.license == "mit"
    (tmp_path / "README.md").write_text(done.card)
    index = metadata_load(tmp_path / "README.md")["model-index"]  # type: ignore[index]
    assert [entry["name"] for entry in index] == [finished.results.label]
    assert len({(entry["dataset"]["type"], entry["dataset"]["config"]) for entry in index[0]["results"]}) == 2


def test_an_earlier_model_goes_up_with_the_scores_of_its_time(finished: RunResult) -> None:
    first = stockpot.push(finished, "acme/digits", after="part-1", dry_run=True)
    assert first.commit_message.startswith("Sequential fine-tuning after 1 of 2 tasks")
    assert {result.dataset_name for result in ModelCard(first.card).data.eval_results} == {"part-1"}
    start = stockpot.push(finished, "acme/digits", after="start", dry_run=True)
    assert start.commit_message.startswith("Start model")
    assert start.files.keys() == FILES
    assert "No task has been learnt" in start.card
    with pytest.raises(StockpotError, match="part-3"):
        stockpot.push(finished, "acme/digits", after="part-3", dry_run=True)


def test_branches_pull_requests_and_privacy(finished: RunResult, hub: Callable[..., StandIn]) -> None:
    asked = hub()
    finished.push("acme/digits", revision="v2", commit_message="Two tasks")
    assert asked.calls[1:] == [
        ("create_repo", {"repo_id": "acme/digits", "private": False, "exist_ok": True}),
        ("create_branch", {"repo_id": "acme/digits", "branch": "v2", "exist_ok": True}),
        upload(revision="v2", commit_message="Two tasks"),
    ]
    asked = hub()
    done = finished.push("acme/digits", create_pr=True)
    assert asked.calls[1:] == [upload(create_pr=True)]
    assert done.url is not None
    assert done.url.endswith("discussions/1")
    asked = hub(public=False)
    finished.push("acme/digits", private=True)
    assert [name for name, _ in asked.calls] == ["whoami", "create_repo", "repo_info", "upload_folder"]
    assert asked.calls[1][1]["private"] is True


def test_what_should_be_private_never_goes_to_a_public_repository(
    finished: RunResult, hub: Callable[..., StandIn]
) -> None:
    asked = hub(public=True)
    with pytest.raises(StockpotError, match="the repository exists and is public"):
        finished.push("acme/digits", private=True)
    assert "upload_folder" not in [name for name, _ in asked.calls]


@pytest.mark.parametrize(
    ("repo", "options", "words"),
    [
        ("a b", {}, "not a name on the hub"),
        ("acme/digits", {"create_pr": True, "private": True}, "drop private and revision"),
        ("acme/digits", {"create_pr": True, "revision": "v2"}, "drop private and revision"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    repo: str, options: dict[str, Any], words: str, finished: RunResult
) -> None:
    with pytest.raises(StockpotError, match=words):
        finished.push(repo, **options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", "a pickle, which runs code when it is opened"),
        ("optimizer.pt", "state of the training"),
        ("trainer_state.json", "state of the training"),
        ("journal.jsonl", "it may hold rows of your data"),
        ("rows.csv", "it may hold rows of your data"),
        ("notes.odt", "not a part of a model that is known"),
    ],
)
def test_what_is_not_a_part_of_the_model_stops_the_push(
    name: str, words: str, copied: Path, hub: Callable[..., StandIn]
) -> None:
    asked = hub()
    (copied / "tasks" / "02-part-2" / "model" / name).write_text("{}")
    with pytest.raises(StockpotError, match=words) as caught:
        stockpot.push(copied, "acme/digits")
    assert name in str(caught.value)
    assert asked.calls == []


def test_links_and_edited_files_stop_the_push_and_hidden_ones_stay(copied: Path, hub: Callable[..., StandIn]) -> None:
    asked = hub()
    folder = copied / "tasks" / "02-part-2" / "model"
    (folder / ".DS_Store").write_text("x")
    done = stockpot.push(copied, "acme/digits")
    assert done.left_out == (".DS_Store",)
    assert asked.content.keys() == FILES
    (folder / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(StockpotError, match="a link, which is not followed"):
        stockpot.push(copied, "acme/digits")
    (folder / "config.json").unlink()
    (folder / "stockpot_model.json").write_text("{}")
    with pytest.raises(StockpotError, match="the journal records"):
        stockpot.push(copied, "acme/digits")


def test_tokens_and_local_paths_stop_the_push(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["method"] = {"name": "sequential", "label": "hf_" + "a" * 34}
    run = stockpot.run(recipe, output=tmp_path / "run", progress=False)
    with pytest.raises(StockpotError, match=r"README.md holds what looks like an access token"):
        run.push("acme/digits", dry_run=True)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"from": "/home/ada/models/base"}))
    with pytest.raises(StockpotError, match=r"config.json holds a path of this machine, /home/ada/models/base;"):
        _check_contents(folder, ("/home/ada/",))
    (folder / "config.json").write_text(json.dumps({"key": "wOrDs"}))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "wOrDs")
    with pytest.raises(StockpotError, match=r"config.json holds what looks like an access token"):
        _check_contents(folder, ("/home/ada/",))


def refused(status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError("Forbidden", response=response, server_message="not yours")


class ConnectError(Exception):
    """As the libraries of the hub's client name theirs."""


class HTTPError(ConnectError):
    pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalTokenNotFoundError("no token"), "nobody is logged in to the hub: run `hf auth login`"),
        (refused(401), "nobody is logged in to the hub: run `hf auth login`"),
        (refused(403), "acme/digits: the hub refuses: not yours; does your token have the right to write there?"),
        (refused(500), "acme/digits: the hub refuses: not yours"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (HTTPError("no route"), "acme/digits: the hub cannot be reached: no route"),
    ],
)
def test_what_the_hub_says_is_one_line_and_exit_code_2(
    error: Exception,
    words: str,
    finished: RunResult,
    hub: Callable[..., StandIn],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub(error=error)
    with pytest.raises(SystemExit) as ended:
        main(["push", str(finished.path), "acme/digits"])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"Error: {lines[-1].removeprefix('Error: ')}"]
    assert words in lines[0]


def test_a_dry_run_lists_what_would_go_up_and_asks_the_hub_nothing(
    finished: RunResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(SystemExit) as ended:
        main(["push", str(finished.path), "acme/digits", "--dry-run"])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert all(name in out for name in FILES)
    assert f'would go to acme/digits as "{MESSAGE}". Nothing was uploaded.' in " ".join(out.split())
    with pytest.raises(SystemExit):
        main(["push", str(finished.path), "acme/digits", "--dry-run", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["url"] is None
    assert document["files"].keys() == FILES
    assert document["total_bytes"] == sum(document["files"].values())
