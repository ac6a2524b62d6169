"""Preset folders to and from a model hub.

A push is one commit, and only of what is whole and licensed.  A fetch brings a repository at one commit, and holds every
file against the preset's own manifest.
"""

import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkswap import errors
from talkswap.checkpoints import download, manifest
from talkswap.checkpoints.card import CARD, card_licence
from talkswap.checkpoints.networks import PRESETS, Requirements, network_of
from talkswap.checkpoints.presets import HUB, check_preset, preset_files, require_whole

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
    """``name``, which must be OWNER/NAME."""
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise errors.UsageError(f"{name!r} is no repository", "write OWNER/NAME, as on the hub")
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
            raise errors.InputMissingError(f"cannot read the token file {path}", "check the path") from error
        if not token or len(token.split()) != 1:
            raise errors.UsageError(f"{path} holds no token", "write the token alone into the file")
        return token
    # A file goes before the environment, and that before a login of long ago.
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
        raise errors.PublishError(
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
        token: with the right to write; see :func:`read_token`.
        private: make the repository private where it is new.
        revision: branch; made when it is not there; None = the main one.
        progress: let huggingface_hub draw its bars.

    Raises:
        PublishError: no token, a hub that refuses or cannot be reached, or the network is forbidden.
        DependencyError: huggingface_hub is not installed.
    """
    endpoint = download.hub_endpoint()
    if download.offline():
        raise errors.PublishError("the network is forbidden", "unset TALKSWAP_OFFLINE and HF_HUB_OFFLINE")
    if token is None:
        raise errors.PublishError(
            f"there is no access token for {endpoint}",
            "make one with the right to write, put it into a file and give --token-file, or set HF_TOKEN",
        )
    if not download.is_safe(endpoint):
        raise errors.PublishError(f"{endpoint} is not encrypted and would see the token", "use https in HF_ENDPOINT")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    except ImportError as error:
        raise errors.DependencyError(
            "huggingface_hub is not installed, which talks to the model hub", "pip install 'talkswap[hub]'"
        ) from error
    if not progress:
        disable_progress_bars()
    # Older pushes of the same networks may have left other shards, or files at the top from before systems had folders.
    paths = sorted({name for file in plan.files if (name := network_of(file)) is not None})
    names = [*paths, *dict.fromkeys(path.rpartition("/")[2] for path in paths if "/" in path)]
    older_files = [p for name in names for p in (f"{name}.safetensors", f"{name}-?????-of-?????.safetensors")]
    api = HfApi(endpoint=endpoint, token=token, library_name="talkswap")
    # Which HTTP library huggingface_hub uses changes with its version.
    transport: Any = HfHubHTTPError.__bases__[0]  # the error of whichever HTTP library this huggingface_hub uses
    try:
        # Asked first: a wrong token fails here and not after an upload.
        api.whoami()
        api.create_repo(plan.repository, private=private or None, exist_ok=True, repo_type="model")
        if revision is not None:
            api.create_branch(plan.repository, branch=revision, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub's advice on the card's optional fields
            commit = api.upload_folder(
                repo_id=plan.repository,
                folder_path=plan.folder,
                revision=revision,
                commit_message=message or f"Weights packed by talkswap: {plan.folder.resolve().name}",
                allow_patterns=list(plan.files),
                delete_patterns=older_files,
            )
    except HfHubHTTPError as error:
        raise _refusal(plan.repository, endpoint, error) from error
    except HFValidationError as error:
        raise errors.UsageError(f"{plan.repository!r} is no repository: {error}", "write OWNER/NAME") from error
    except ValueError as error:
        raise errors.PublishError(
            f"{endpoint} refused the files: {' '.join(str(error).split())}", "correct what it names and push again"
        ) from error
    except (transport, OSError) as error:
        raise errors.PublishError(
            f"{endpoint} cannot be reached: {error}", "check the network and HF_ENDPOINT; nothing was committed"
        ) from error
    return Pushed(plan, commit.oid, commit.commit_url)


def _refusal(repository: str, endpoint: str, error: Any) -> errors.TalkswapError:
    """What a hub's answer means for the user."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    answer = str(getattr(error, "server_message", "") or "").strip().rstrip(".")
    why = f"answered {status}" + (f": {answer}" if answer else "")
    # A hub answers 404 for what a token may not see, so 403 and 404 mean the same here.
    if status == 401:
        return errors.PublishError(
            f"{endpoint} does not take the access token ({why})", "make a new token and try again"
        )
    if status in (403, 404):
        owner = repository.split("/")[0]
        return errors.PublishError(
            f"{endpoint} refuses to write to {repository} ({why})", f"use a token with the right to write for {owner}"
        )
    return errors.PublishError(f"{endpoint} failed ({why})", "wait a little and push again; nothing was committed")


# --- Fetching: the commit pins the manifest, and the manifest pins every file.


MOST_FILES, LONGEST_MANIFEST = 10_000, 4_000_000  # a preset has a few dozen files and a list of some kB


@dataclass(frozen=True)
class Fetched:
    """A published preset on this machine."""

    folder: Path
    name: str
    preset: str
    licence: str
    fetched: tuple[str, ...]
    here: int  # files that were there already, whole


def preset_place(repository: str, commit: str) -> Path:
    """Where a published preset goes unless the user says otherwise."""
    return manifest.download_root() / HUB / repository / commit


def fetch_preset(
    repository: str,
    commit: str,
    folder: Path | None = None,
    token: str | None = None,
    rooms: Collection[str] = (),
    config: download.FetchConfig | None = None,
    notify: download.Notify | None = None,
) -> Fetched:
    """Bring a published preset here; an interrupted fetch goes on where it stopped.

    The commit is the pin: it decides the manifest, and that decides every file.  The folder gets its manifest last, so
    that what is half fetched is no preset yet.

    Args:
        repository: OWNER/NAME on the hub that ``HF_ENDPOINT`` names.
        commit: 40 hex digits.
        folder: where it goes; None = :func:`preset_place`.
        token: for a repository that is not public.
        rooms: folders of the preset to bring, for example those that one system needs; () = all.

    Raises:
        UsageError: the repository or the commit is not well formed.
        DownloadError: something could not be fetched, or the network is forbidden.
        WeightsCorruptError: a file is not what the manifest says, or the manifest lists what no preset holds.
        OutputUnwritableError: the folder cannot be written, or holds another preset.
    """
    check_repository(repository)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise errors.UsageError(
            f"{commit!r} is no commit", "give all 40 hex digits of --revision; a branch or a tag can change"
        )
    folder = folder or preset_place(repository, commit)
    origin = {"repository": repository, "commit": commit}
    if (folder / manifest.MANIFEST).is_file():
        about = manifest.read_about(folder)
        if {key: about.get(key) for key in origin} != origin:
            raise errors.OutputUnwritableError(f"{folder} holds another preset", "choose another folder with --out")
        # an earlier fetch may have brought some rooms only
        earlier = about.get("rooms", "").split()
        rooms = () if "rooms" not in about else (*rooms, *earlier) if rooms else ()
        if set(rooms) == set(earlier) and all(state.problem is None for state in check_preset(folder)):
            return _fetched(folder, about, (), len(manifest.read_records(folder)))
    if download.offline():
        raise errors.DownloadError(
            f"{repository} at {commit} is not whole on this machine and the network is forbidden",
            "unset TALKSWAP_OFFLINE and HF_HUB_OFFLINE",
        )

    def bring(file: str, target: Path, label: str, record: manifest.FileRecord | None = None) -> None:
        url = download.hub_address(repository, commit, file)
        size, sha256 = (None, None) if record is None else (record.size, record.sha256)
        download.fetch(url, target, size, sha256, config, notify, label, token, most=LONGEST_MANIFEST)

    # The manifest stays in a folder of its own until all that it lists is here.
    staging = folder / ".fetched"
    bring(manifest.MANIFEST, staging / manifest.MANIFEST, manifest.MANIFEST)
    records, about = manifest.read_records(staging), manifest.read_about(staging)
    _check_list(records, about, repository)
    if rooms:
        records = {file: record for file, record in records.items() if manifest.room_of(file) in rooms}
        about["rooms"] = " ".join(dict.fromkeys(rooms))
    new: list[str] = []
    for file, record in sorted(records.items()):
        target = manifest.inside(folder, file)
        try:
            manifest.check_file(target, record, "")
        except (errors.WeightsMissingError, errors.WeightsCorruptError):
            bring(record.listed or file, target, file, record)  # an old flat preset gets today's folders here
            new.append(file)
    bring(CARD, folder / CARD, CARD)
    about |= origin
    try:
        manifest.write_records(folder, records.values(), about)
        os.unlink(staging / manifest.MANIFEST)
        staging.rmdir()
    except OSError as error:
        raise errors.OutputUnwritableError(
            f"cannot write {folder}: {error.strerror}", "choose another --out"
        ) from error
    return _fetched(folder, about, tuple(new), len(records) - len(new))


def _check_list(records: dict[str, manifest.FileRecord], about: dict[str, str], repository: str) -> None:
    """A stranger's manifest may list weights and configurations, nothing that could be mistaken for something else."""
    # Weights and configurations can't be run, and nothing hidden can be slipped in.
    strange = [file for file in records if not manifest.is_listed(file) or "/." in f"/{file}"]
    if strange or not records or len(records) > MOST_FILES:
        what = f"lists {strange[0]!r}" if strange else f"lists {len(records)} files"
        raise errors.WeightsCorruptError(
            f"the manifest of {repository} {what}, which is no preset", "do not use this source"
        )
    if about.get("preset", "compact") not in PRESETS:
        raise errors.WeightsCorruptError(
            f"{repository} is made like the preset {about['preset']!r}, which this talkswap does not know",
            "update talkswap",
        )


def _fetched(folder: Path, about: dict[str, str], new: tuple[str, ...], here: int) -> Fetched:
    name, licence = about.get("name", folder.name), about.get("licence", "not stated")
    return Fetched(folder, name, about.get("preset", "compact"), licence, new, here)
