"""Publish a preset folder on a model hub: one commit, and only what is whole and licensed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkswap.checkpoints.description import Requirements
from talkswap.checkpoints.download import hub_endpoint, is_safe, offline
from talkswap.checkpoints.networks import network_of
from talkswap.checkpoints.publish.card import CARD, card_licence
from talkswap.checkpoints.publish.check import preset_files, require_whole
from talkswap.errors import DependencyError, InputMissingError, PublishError, TalkswapError, UsageError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class PushPlan:
    """What would go where."""

    folder: Path
    repository: str
    licence: str
    files: tuple[str, ...]
    size: int  # bytes


@dataclass(frozen=True)
class Pushed:
    """A finished push."""

    plan: PushPlan
    commit: str  # 40 hex digits
    url: str


def check_repository(name: str) -> str:
    """``name``, which must be OWNER/NAME.

    Raises:
        UsageError: it is not.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name!r} is no repository", "write OWNER/NAME, as on the hub")
    return name


def read_token(path: Path | None) -> str | None:
    """The access token of a file, or of HF_TOKEN, or that `hf auth login` left; None when there is none.

    Raises:
        InputMissingError: the file cannot be read.
        UsageError: it holds no token.
    """
    if path is not None:
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputMissingError(f"cannot read the token file {path}", "check the path") from error
        if not token or len(token.split()) != 1:
            raise UsageError(f"{path} holds no token", "write the token alone into the file")
        return token
    if token := os.environ.get("HF_TOKEN", "").strip():
        return token
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()


def plan_push(folder: Path, repository: str, requirements: Mapping[str, Requirements]) -> PushPlan:
    """What a push would send, once the folder is found whole and licensed.

    Raises:
        UsageError: the repository's name is none.
        WeightsMissingError, WeightsCorruptError: a file differs from the manifest, or a render would lack something.
        PublishError: the model card names no licence.
    """
    check_repository(repository)
    require_whole(folder, requirements)
    card = folder / CARD
    licence = card_licence(card.read_text(encoding="utf-8")) if card.is_file() else None
    if licence is None:
        raise PublishError(
            f"the model card {card} names no licence",
            "pack with --licence, or write `license:` into the lines between --- at the top of the card",
        )
    files = tuple(preset_files(folder))
    return PushPlan(folder, repository, licence, files, sum((folder / file).stat().st_size for file in files))


def push(
    plan: PushPlan,
    token: str | None,
    private: bool = False,
    revision: str | None = None,
    message: str = "",
    progress: bool = False,
) -> Pushed:
    """Send a planned push to the hub that ``HF_ENDPOINT`` names, in one commit.

    Files that are already there as they should be are not sent again; tensors of an earlier push that the new ones
    replace under other names (shards) are removed in the same commit.

    Args:
        plan: of :func:`plan_push`.
        token: with the right to write; see :func:`read_token`.
        private: make the repository private where it is new.
        revision: branch; made when it is not there; None = the main one.
        message: of the commit.
        progress: let huggingface_hub draw its bars.

    Raises:
        PublishError: no token, a hub that refuses or cannot be reached, or the network is forbidden.
        DependencyError: huggingface_hub is not installed.
    """
    endpoint = hub_endpoint()
    if offline():
        raise PublishError("the network is forbidden", "unset TALKSWAP_OFFLINE and HF_HUB_OFFLINE")
    if token is None:
        raise PublishError(
            f"there is no access token for {endpoint}",
            "make one with the right to write, put it into a file and give --token-file, or set HF_TOKEN",
        )
    if not is_safe(endpoint):
        raise PublishError(f"{endpoint} is not encrypted and would see the token", "use https in HF_ENDPOINT")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    except ImportError as error:
        raise DependencyError(
            "huggingface_hub is not installed, which talks to the model hub", "pip install 'talkswap[hub]'"
        ) from error
    if not progress:
        disable_progress_bars()
    api = HfApi(endpoint=endpoint, token=token, library_name="talkswap")
    transport: Any = HfHubHTTPError.__bases__[0]  # the error of whichever HTTP library this huggingface_hub uses
    try:
        api.whoami()
        api.create_repo(plan.repository, private=private or None, exist_ok=True, repo_type="model")
        if revision is not None:
            api.create_branch(plan.repository, branch=revision, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub's advice on the card's optional fields
            done = api.upload_folder(
                repo_id=plan.repository,
                folder_path=plan.folder,
                revision=revision,
                commit_message=message or f"Weights packed by talkswap: {plan.folder.resolve().name}",
                allow_patterns=list(plan.files),
                delete_patterns=_replaced(plan),
            )
    except HfHubHTTPError as error:
        raise _refusal(plan.repository, endpoint, error) from error
    except HFValidationError as error:
        raise UsageError(f"{plan.repository!r} is no repository: {error}", "write OWNER/NAME") from error
    except ValueError as error:
        raise PublishError(
            f"{endpoint} refused the files: {' '.join(str(error).split())}", "correct what it names and push again"
        ) from error
    except (transport, OSError) as error:
        raise PublishError(
            f"{endpoint} cannot be reached: {error}", "check the network and HF_ENDPOINT; nothing was committed"
        ) from error
    return Pushed(plan, done.oid, done.commit_url)


def _replaced(plan: PushPlan) -> list[str]:
    """Patterns of files that older pushes of the same networks may have left."""
    paths = sorted({name for file in plan.files if (name := network_of(file)) is not None})
    # a push from before systems had folders left its files at the top
    names = [*paths, *dict.fromkeys(path.rpartition("/")[2] for path in paths if "/" in path)]
    return [p for name in names for p in (f"{name}.safetensors", f"{name}-?????-of-?????.safetensors")]


def _refusal(repository: str, endpoint: str, error: Any) -> TalkswapError:
    """What a hub's answer means for the user."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    said = str(getattr(error, "server_message", "") or "").strip().rstrip(".")
    why = f"answered {status}" + (f": {said}" if said else "")
    if status == 401:
        return PublishError(f"{endpoint} does not take the access token ({why})", "make a new token and try again")
    if status in (403, 404):
        owner = repository.split("/")[0]
        return PublishError(
            f"{endpoint} refuses to write to {repository} ({why})", f"use a token with the right to write for {owner}"
        )
    return PublishError(f"{endpoint} failed ({why})", "wait a little and push again; nothing was committed")
