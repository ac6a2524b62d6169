"""Anybody's videos as a data set that every stage trains on; no network but our own is needed.

Layout of a prepared folder (one clip's files: :mod:`talkswap.data.clip`; stills: :mod:`talkswap.data.gather`)::

    manifest.json               settings, versions, speakers, sources and clips with their sha256, what was refused and why
    videos/  clips-SPLIT/  voices/  features/mel/  features/hubert-HASH/  records/      one file per clip
    videos/clips.csv            name, kind, speaker, correlation of mouth and sound, … of each clip
    lags.json                   seconds by which a clip's picture is later than its sound, where that is clear
    frames-SPLIT/  portraits-SPLIT/                                                    stills as arrays

A clip's record is written after its files, and every file in one move; so a run that was killed goes on with the
clips that it had not finished, and ends with the same bytes as a run that was left alone.
"""

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.data.clip import ClipConfig, ClipJob, finished, prepare_clip, settings_of
from talkswap.data.cutting import Source, cut, open_source, slug
from talkswap.data.stills import KINDS, finish_stills, paths_of, plan_stills, write_stills
from talkswap.data.workers import locked, spread
from talkswap.device import versions
from talkswap.errors import InputMissingError, NoVideoError, TrainingDataError, UnreadableMediaError
from talkswap.files import file_sha256, write_atomically
from talkswap.types import ProgressEvent

FORMAT = 1
SPLITS = ("val", "train")
Report = Callable[[ProgressEvent], None]


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare and how."""

    out: Path
    seconds: Fraction = Fraction(10)  # length of a clip
    shortest: Fraction = Fraction(2)  # a last piece below this is dropped
    seed: int = 0  # of the split
    held_out: float = 0.1  # share of the speakers
    least_rate: float = 20.0  # pictures per second of a source; lips of a slower one cannot be read
    frame_step: int = 12  # every k-th frame becomes a still
    still: int = 320  # px of a still
    workers: int = 2
    hubert: Path | None = None
    clip: ClipConfig = ClipConfig()


def split_speakers(
    speakers: Iterable[str], seed: int, share: float = 0.1, already: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The split of each speaker.

    The order in which speakers are held out is that of a hash of seed and name, so it depends on nothing else.  Of
    four or more speakers at least two are held out, since a face swap is measured between two people; of two or three
    it is one, and one alone trains.

    Args:
        share: of the speakers that is held out.
        already: splits of an earlier run, kept.
    """
    # A speaker never changes sides, or a network would have trained on what it's tested with.
    splits = dict(already or {})
    everybody = sorted(set(speakers) | set(splits))
    least = 2 if len(everybody) >= 4 else len(everybody) // 2
    held_out = max(least, round(share * len(everybody)))
    # Ordered by a hash of the name, so later speakers don't change the split of earlier ones.
    quota = held_out - sum(split == "val" for split in splits.values())
    fresh = sorted(
        (s for s in everybody if s not in splits), key=lambda s: hashlib.sha256(f"{seed}:{s}".encode()).digest()
    )
    return splits | {name: "val" if number < quota else "train" for number, name in enumerate(fresh)}


def read_speakers(path: Path) -> dict[str, str]:
    """``file,speaker`` rows; files are named by path, by name, or by name without ending.

    Raises:
        InputMissingError: there is no such file.
        TrainingDataError: a column is missing, or a row is empty.
    """
    if not path.is_file():
        raise InputMissingError(f"no speaker list at {path}", "check the path given with --speakers")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file", "speaker"} <= set(reader.fieldnames or ()):
            raise TrainingDataError(f"{path} lacks the columns file and speaker", "begin it with the line file,speaker")
        speakers = {}
        for number, row in enumerate(reader, 2):
            if not row["file"] or not row["speaker"]:
                raise TrainingDataError(f"{path}, line {number}: a file or a speaker is missing", "write file,speaker")
            speakers[row["file"]] = row["speaker"]
    return speakers


def speaker_of(video: Path, listed: Mapping[str, str]) -> str:
    """Who a list says speaks in a video; "" where it says nothing."""
    return next((listed[key] for key in (str(video), video.name, video.stem) if key in listed), "")


@dataclass(frozen=True)
class SourceFacts:
    """What a source turned out to be."""

    sha256: str = ""
    seconds: float = 0.0
    rate: float = 0.0
    width: int = 0
    height: int = 0
    reason: str = ""  # why it is refused as a whole; "" = it is not
    detail: str = ""


def look(job: tuple[Source, float]) -> SourceFacts:
    """Open a source and say whether it can be used at all."""
    source, least_rate = job
    try:
        info, index = open_source(source.path)
        digest = file_sha256(source.path)
    except (UnreadableMediaError, NoVideoError, InputMissingError) as error:
        return SourceFacts(reason="unreadable", detail=error.message)
    except OSError as error:
        return SourceFacts(reason="unreadable", detail=str(error.strerror))
    # By the pictures that are there; headers of variable rates state anything.
    rate = len(index.times) / max(float(index.duration), 1e-3)
    facts = (digest, round(float(index.duration), 3), round(rate, 3), info.width, info.height)
    if not info.has_audio:
        return SourceFacts(*facts, "no sound", "the file has no sound")
    if rate < least_rate:
        return SourceFacts(*facts, "slow", f"{rate:.1f} pictures per second")
    return SourceFacts(*facts)


def _refusal(source: Source, reason: str, detail: str) -> dict[str, Any]:
    return {"source": str(source.path), "clip": None, "start": None, "reason": reason, "detail": detail}


def _plan(
    sources: Sequence[tuple[Source, SourceFacts]],
    config: PrepareConfig,
    splits: dict[str, str],
    refused: list[dict[str, Any]],
) -> list[ClipJob]:
    jobs: list[ClipJob] = []
    for source, facts in sources:
        try:
            pieces = cut(source, config.seconds, config.shortest, config.clip.rate)
        except (UnreadableMediaError, NoVideoError) as error:
            refused.append(_refusal(source, "unreadable", error.message))
            continue
        if not pieces:
            refused.append(_refusal(source, "short", f"{facts.seconds} s"))
        speaker = speaker_name(source, facts)
        for piece in pieces:
            name = f"{slug(source.name or source.path.stem)}-{facts.sha256[:8]}-{round(piece.start * 1000):08d}"
            split = splits[speaker]
            jobs.append(ClipJob(name, split, speaker, facts.sha256, piece, config.out, config.clip))
    return jobs


def speaker_name(source: Source, facts: SourceFacts) -> str:
    """The speaker that is named, or the source itself."""
    return source.speaker or f"{slug(source.path.stem)}-{facts.sha256[:8]}"


@lru_cache(maxsize=1)
def _hubert(folder: Path) -> Any:
    from talkswap.voice.hubert import HubertFeatures

    return HubertFeatures(folder)


def hear(job: tuple[Path, Path, Path]) -> None:
    """Write the HuBERT features (T 768, half precision) of one clip's voice: (model, labels, target)."""
    model, labels, target = job
    with np.load(labels) as arrays:
        voice = arrays["voice"]
    features = _hubert(model)(voice).astype(np.float16)
    write_atomically(target, lambda part: np.save(part, features), parents=True)


def _same_settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings, compared with those of an earlier run in the folder.

    Raises:
        TrainingDataError: they differ.
    """
    settings = {
        "format": FORMAT, "seconds": str(config.seconds), "shortest": str(config.shortest), "seed": config.seed,
        "held_out": config.held_out, "least_rate": config.least_rate, "clip": settings_of(config.clip),
    }  # fmt: skip
    path = config.out / "settings.json"
    if path.is_file():
        earlier = json.loads(path.read_text())
        # Clips of two settings in one folder would be two data sets under one name.
        different = [k for k in settings if earlier.get(k) != settings[k]]
        if different:
            raise TrainingDataError(
                f"{config.out} was prepared with other settings ({', '.join(different)})", "prepare into a new folder"
            )
    else:
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
    return settings


def prepare(sources: Sequence[Source], config: PrepareConfig, report: Report | None = None) -> dict[str, Any]:
    """Prepare videos; what is already finished is kept.

    Returns:
        The manifest, as written to ``manifest.json``.

    Raises:
        TrainingDataError: the folder holds a data set of other settings.
        OutputUnwritableError: the folder cannot be written.
        TrainingError: a process was killed.
    """
    tell = report or (lambda event: None)
    with locked(config.out):
        settings = _same_settings(config)
        # A killed run may have left half-written files.
        for folder in ("", "videos", "clips-train", "clips-val", "voices", "records", "features/*", "work", "frames-*"):
            for part in config.out.glob(f"{folder}/*.part*" if folder else "*.part"):
                part.unlink(missing_ok=True)
        refused: list[dict[str, Any]] = []
        usable = _look_all(sources, config, refused, tell)
        speakers = config.out / "speakers.json"
        earlier = json.loads(speakers.read_text()) if speakers.is_file() else {}
        names = (speaker_name(source, facts) for source, facts in usable)
        splits = split_speakers(names, config.seed, config.held_out, earlier)
        if splits != earlier:
            write_atomically(speakers, json.dumps(dict(sorted(splits.items())), indent=1, ensure_ascii=False) + "\n")
        records = _clips(_plan(usable, config, splits, refused), config, tell)
        accepted = [r for r in records if r["refused"] is None]
        # Refusals are part of the result: users need to know why a clip is missing.
        for record in records:
            if record["refused"] is not None:
                path = next(str(s.path) for s, facts in usable if facts.sha256 == record["source"])
                refused.append({"source": path, "clip": record["name"], "start": record["start"], **record["refused"]})
        stills = _stills(accepted, config, tell)
        features = _features(accepted, config, tell)
        manifest = _manifest(config, settings, usable, splits, accepted, refused, stills, features)
        write_atomically(config.out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(config.out / "work", ignore_errors=True)
        return manifest


def _look_all(
    sources: Sequence[Source], config: PrepareConfig, refused: list[dict[str, Any]], tell: Report
) -> list[tuple[Source, SourceFacts]]:
    """Sources that can be opened, in the order given; one that is there twice is taken once."""
    jobs = [(source, config.least_rate) for source in sources]
    facts: dict[int, SourceFacts] = {}
    for done, (job, result) in enumerate(spread(look, jobs, config.workers), 1):
        facts[id(job)] = result
        message = f"refused: {job[0].path}: {result.reason} ({result.detail})" if result.reason else ""
        tell(ProgressEvent("sources", done, len(jobs), message))
    usable, paths = [], dict[str, Path]()
    for job in jobs:
        source, result = job[0], facts[id(job)]
        if result.reason:
            refused.append(_refusal(source, result.reason, result.detail))
        # A copy under another name would be one person twice, perhaps on both sides of the split.
        elif result.sha256 in paths:
            refused.append(_refusal(source, "copy", f"the same file as {paths[result.sha256]}"))
        else:
            paths[result.sha256] = source.path
            usable.append((source, result))
    return usable


def _clips(jobs: Sequence[ClipJob], config: PrepareConfig, tell: Report) -> list[dict[str, Any]]:
    """Records of all pieces, made now or earlier, by name."""
    records = {job.name: record for job in jobs if (record := finished(job)) is not None}
    remaining = [job for job in jobs if job.name not in records]
    if records:
        tell(ProgressEvent("clips", len(records), len(jobs), f"{len(records)} clips were finished earlier"))
    for job, record in spread(prepare_clip, remaining, config.workers):
        records[job.name] = record
        why = record["refused"]
        message = f"refused: {job.name}: {why['reason']} ({why['detail']})" if why else ""
        tell(ProgressEvent("clips", len(records), len(jobs), message))
    return [records[name] for name in sorted(records)]


def _stills(accepted: Sequence[dict[str, Any]], config: PrepareConfig, tell: Report) -> dict[str, int]:
    counts = {}
    for split in SPLITS:
        own = [r for r in accepted if r["split"] == split]
        for kind in KINDS:
            folder = f"{kind}-{split}"
            jobs = plan_stills(config.out, split, kind, own, config.frame_step, config.still)
            for done, _ in enumerate(spread(write_stills, jobs, config.workers), 1):
                tell(ProgressEvent(folder, done, len(jobs)))
            if jobs:
                finish_stills(config.out, split, kind, own, jobs, config.frame_step, config.still)
            elif not own:
                shutil.rmtree(config.out / folder, ignore_errors=True)  # of clips that are gone
            meta = config.out / folder / "meta.json"
            counts[folder] = len(json.loads(meta.read_text())) if meta.is_file() else 0
    return counts


def _features(accepted: Sequence[dict[str, Any]], config: PrepareConfig, tell: Report) -> str:
    """HuBERT features of every clip that lacks them; returns their folder's name, "" where none were asked for."""
    if config.hubert is None:
        return ""
    # The folder bears the model's hash: features of two models must never mix.
    weights = config.hubert / "model.safetensors"
    if not weights.is_file():
        raise InputMissingError(f"no HuBERT at {config.hubert}", "`talkswap download` fetches it; name its folder")
    folder = f"features/hubert-{file_sha256(weights)[:8]}"
    jobs = []
    for record in accepted:
        target = config.out / folder / f"{record['name']}.npy"
        if not target.is_file():
            labels = config.out / paths_of(record["name"], record["split"])["labels"]
            jobs.append((config.hubert, labels, target))
    for done, _ in enumerate(spread(hear, jobs, config.workers), 1):
        tell(ProgressEvent("hubert", done, len(jobs)))
    return folder


def _manifest(
    config: PrepareConfig,
    settings: dict[str, Any],
    usable: Sequence[tuple[Source, SourceFacts]],
    splits: dict[str, str],
    accepted: Sequence[dict[str, Any]],
    refused: list[dict[str, Any]],
    stills: dict[str, int],
    features: str,
) -> dict[str, Any]:
    sources = [
        {
            "path": str(source.path), "sha256": facts.sha256, "speaker": speaker_name(source, facts),
            "split": splits[speaker_name(source, facts)], "seconds": facts.seconds, "rate": facts.rate,
            "width": facts.width, "height": facts.height,
            "clips": sum(r["source"] == facts.sha256 for r in accepted),
        }
        for source, facts in usable
    ]  # fmt: skip
    # The table that stages of the first data set read, with the same columns.
    rows = io.StringIO()
    columns = ("name", "split", "kind", "speaker", "source", "start", "frames", "quad_px", "mouth_audio_corr", "lag")
    writer = csv.DictWriter(rows, columns, lineterminator="\n")
    writer.writeheader()
    paths = {facts.sha256: source.path.name for source, facts in usable}
    for r in accepted:
        own = {key: r[key] for key in ("split", "speaker", "start", "frames", "quad_px", "lag")}
        about = {"name": f"{r['name']}.mp4", "kind": "real", "mouth_audio_corr": r["correlation"]}
        writer.writerow({**own, **about, "source": paths[r["source"]]})
    write_atomically(config.out / "videos" / "clips.csv", rows.getvalue(), parents=True)
    lags = {r["name"]: r["lag"] for r in accepted if r["lag"]}
    write_atomically(config.out / "lags.json", json.dumps(lags, indent=1) + "\n")
    folders = [f"{kind}-{split}" for kind in KINDS for split in SPLITS]
    others = ["videos/clips.csv", "lags.json", "speakers.json", "settings.json"]
    others += [f"{folder}/{name}" for folder in folders for name in ("crops.npy", "landmarks.npy", "meta.json")]
    others += [f"{features}/{r['name']}.npy" for r in accepted] if features else []
    order = sorted(refused, key=lambda r: (r["source"], r["start"] or 0.0))
    seconds = sum(r["frames"] for r in accepted) / config.clip.rate
    return {
        "format": FORMAT, "settings": settings, "frame_step": config.frame_step, "still": config.still,
        "versions": versions(),
        "counts": {
            "sources": len(sources), "clips": len(accepted), "refused": len(refused), "seconds": round(seconds, 2),
            **{f"clips-{split}": sum(r["split"] == split for r in accepted) for split in SPLITS}, **stills,
        },
        "refused_by_reason": dict(sorted(Counter(r["reason"] for r in refused).items())),
        "speakers": {split: sorted(name for name, own in splits.items() if own == split) for split in SPLITS},
        "sources": sources, "clips": list(accepted), "refused": order, "features": features,
        "files": {path: file_sha256(config.out / path) for path in others if (config.out / path).is_file()},
    }  # fmt: skip
