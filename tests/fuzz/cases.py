"""A case: some files, most of them spoilt, and a command that is given them.  Its number and the seed decide it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import damage
from .material import CLIPS, PHOTOS, VOICES, weights


@dataclass(frozen=True)
class Case:
    """What one try is."""

    number: int
    kind: str  # what is spoilt
    about: str  # how, in a few words
    arguments: tuple[str, ...]  # of talkswap
    output: Path | None = None  # the clip that success must bring
    made: tuple[str, ...] = ()  # names in the room that the command may leave besides
    real: bool = False  # with the real networks, not with a system that answers at once


Make = Callable[[random.Random, Path, Path], Case]
"""(chance, folder of whole files, an empty room) -> case with number 0."""

QUIET = ("--quiet", "--device", "cpu")
ENDINGS = ("mp4", "mp4", "mp4", "mkv", "mov", "webm")


def build(seed: int, number: int, kind: str, whole: Path, room: Path) -> Case:
    """Lay the files of one case into its room."""
    for folder in ("in", "out", "here"):
        (room / folder).mkdir(parents=True)
    case = KINDS[kind](random.Random(f"{seed}-{number}-{kind}"), whole, room)
    return Case(number, kind, case.about, case.arguments, case.output, case.made, case.real)


def draw(seed: int, number: int, kinds: dict[str, int]) -> str:
    """Which kind a case is of; ``kinds`` gives each its share."""
    return random.Random(f"{seed}-{number}").choices(list(kinds), list(kinds.values()))[0]


def _spoilt(chance: random.Random, whole: Path, room: Path, names: tuple[str, ...]) -> tuple[Path, str]:
    """One of some files, spoilt, under its own name."""
    name = chance.choice(names)
    data = (whole / name).read_bytes()
    lies = {".mp4": damage.lie_in_a_box, ".mov": damage.lie_in_a_box, ".m4a": damage.lie_in_a_box}
    lies |= {".wav": damage.lie_in_a_wave, ".png": damage.lie_in_a_png}
    lie = lies.get(Path(name).suffix)
    path = room / "in" / name
    if lie is not None and chance.random() < 0.3:
        path.write_bytes(lie(chance, data))
        return path, f"{name}: {lie.__name__}"
    path.write_bytes(damage.spoil(chance, data))
    return path, f"{name}: spoilt"


def _render(room: Path, chance: random.Random, *arguments: object, about: str, real: bool = False) -> Case:
    output = room / "out" / f"dubbed.{chance.choice(ENDINGS)}"
    given = ("render", *(str(argument) for argument in arguments), "--output", str(output), *QUIET)
    return Case(0, "", about, given, output, real=real)


PASSIVE = ("--no-swap", "--no-sync")


def target(chance: random.Random, whole: Path, room: Path) -> Case:
    path, about = _spoilt(chance, whole, room, CLIPS + ("clip.mp4",) * 3)
    what = chance.random()
    if what < 0.7:
        return _render(room, chance, "--target", path, *PASSIVE, about=about)
    if what < 0.8:
        return Case(0, "", about, ("faces", str(path), "--preset", "compact"), made=(f"here/{path.stem}-faces",))
    if what < 0.9:
        return _render(room, chance, "--target", path, *PASSIVE, "--audio", whole / "voice.wav", "--audio-mix",
                       chance.choice(("keep", "duck")), "--fit", chance.choice(("loop", "bounce")), about=about)  # fmt: skip
    real = what > 0.99
    return _render(room, chance, "--target", path, "--source", whole / "photo.png", about=about, real=real)


def odd(chance: random.Random, whole: Path, room: Path) -> Case:
    """Whole files that are strange: sizes, depths, layouts, rates, lists of other files."""
    path = chance.choice(sorted(whole.glob("odd-*")))
    about = path.name
    if path.suffix == ".wav":
        return _render(room, chance, "--target", whole / "clip.mp4", "--no-swap", "--audio", path, about=about)
    if path.suffix == ".png":
        return _render(room, chance, "--target", whole / "clip.mp4", "--no-sync", "--source", path, about=about)
    if path.name.startswith(("odd-list", "odd-secret", "odd-net", "odd-script")) and chance.random() < 0.5:
        return _render(
            room, chance, "--target", whole / "clip.mp4", "--no-swap", "--audio", path, about=f"voice {about}"
        )
    if "8k" not in path.name and chance.random() < 0.3:
        return Case(0, "", about, ("faces", str(path), "--preset", "compact"), made=(f"here/{path.stem}-faces",))
    return _render(room, chance, "--target", path, *PASSIVE, about=about)


def voice(chance: random.Random, whole: Path, room: Path) -> Case:
    path, about = _spoilt(chance, whole, room, VOICES + ("voice.wav",) * 3)
    if chance.random() < 0.3:
        option = chance.choice((("--no-swap",), ("--no-swap", "--silence", "original"), ("--no-swap", "--fit", "loop")))
        return _render(room, chance, "--target", whole / "clip.mp4", *option, "--audio", path, about=about)
    fit = chance.choice(("clip", "voice", "loop", "bounce", "freeze"))
    return _render(room, chance, "--target", whole / "clip.mp4", *PASSIVE, "--audio", path, "--fit", fit, about=about)


def source(chance: random.Random, whole: Path, room: Path) -> Case:
    path, about = _spoilt(chance, whole, room, PHOTOS + ("photo.png",) * 3)
    where = chance.choice((("--source",), ("--source",), ("--face",), ("--map",)))[0]
    given: tuple[object, ...] = (where, f"0={path}" if where == "--map" else path)
    if where == "--face":
        given += ("--source", whole / "photo.png")
    real = chance.random() < 0.02
    return _render(
        room, chance, "--target", whole / "clip.mp4", "--no-sync", *given, about=f"{where} {about}", real=real
    )


NAMES = (
    b"with space.mp4", b"quote'\"quote.mp4", b"line\nbreak.mp4", b"-dash.mp4", b"--overwrite", b"\xe6\x98\xa0\xe7\x94\xbb.mp4",
    b"bad\xff\xfebytes.mp4", b"%d.mp4", b"%03d.png", b"a:b.mp4", b"concat:a|b.mp4", b"http:x.mp4", b"$(touch x).mp4",
    b"`id`.mp4", b"back\\slash.mp4", b"semi;colon.mp4", b"new\r\nline.mp4", b"\x1b[31mred.mp4", b"glob*[a]?.mp4",
    b"tab\ttab.mp4", b".mp4", b"no-ending", b"trailing .mp4 ", b"comma,equals=;.mp4", b"x" * 240 + b".mp4",
    "الله.mp4".encode(), "e\u0301.mp4".encode(), "\u202egnp.mp4".encode(), b"~.mp4", b"file:x.mp4", b"pipe:0",
    b"[v:0]out.mp4", b"a'b:c=d,e[f].mp4",
)  # fmt: skip


def names(chance: random.Random, whole: Path, room: Path) -> Case:
    """Whole files with names that somebody trips over."""
    raw = chance.choice(NAMES)
    name = os.fsdecode(raw)
    kind = chance.choice(("target", "target", "voice", "source", "output", "report"))
    about = f"{kind} {raw!r}"
    path = room / "in" / name
    if kind == "output":
        output = room / "out" / (name if name.endswith((".mp4", ".mkv")) else f"{name}.mp4")
        return Case(0, "", about, ("render", "--target", str(whole / "clip.mp4"), *PASSIVE, f"--output={output}", *QUIET),
                    output)  # fmt: skip
    if kind == "report":
        case = _render(
            room, chance, "--target", whole / "clip.mp4", *PASSIVE, f"--report={room / 'out' / name}", about=about
        )
        return Case(0, "", about, case.arguments, case.output, made=(f"out/{name}",))
    shutil.copy(whole / {"target": "clip.mp4", "voice": "voice.wav", "source": "photo.png"}[kind], path)
    if kind == "target":
        if chance.random() < 0.3:  # in the folder where it lies, so that the name stands alone
            shutil.copy(path, room / "here" / name)
            given = ("faces", "--preset", "compact", "--thumbnails", "found", "--", name)
            return Case(0, "", f"{about} in its folder", given, made=("here/found",))
        return _render(room, chance, f"--target={path}", *PASSIVE, about=about)
    if kind == "voice":
        return _render(room, chance, "--target", whole / "clip.mp4", *PASSIVE, f"--audio={path}", about=about)
    return _render(room, chance, "--target", whole / "clip.mp4", "--no-sync", f"--source={path}", about=about)


PLACES = ("target", "voice", "source", "plan", "weights", "jobs", "verify", "output", "report", "save-plan", "more")


def special(chance: random.Random, whole: Path, room: Path) -> Case:
    """What is no plain file, wherever a path may stand."""
    what = chance.choice(("fifo", "socket", "directory", "zero", "null", "full", "dangling", "loop", "long", "link", "empty",
                          "locked", "below a file", "nowhere", "stdin"))  # fmt: skip
    path = room / "in" / f"{what}.mp4"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        import socket

        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
        os.chdir(here)
    elif what == "directory":
        path.mkdir()
    elif what == "dangling":
        path.symlink_to(room / "nothing")
    elif what == "loop":
        path.symlink_to(path)
    elif what == "link":
        path.symlink_to(whole / "clip.mp4")
    elif what == "empty":
        path.touch()
    elif what == "below a file":
        (room / "in" / "file").touch()
        path = room / "in" / "file" / "x.mp4"
    elif what == "locked":
        shutil.copy(whole / "clip.mp4", path)
        path.chmod(0)
    else:
        path = {
            "zero": Path("/dev/zero"), "null": Path("/dev/null"), "full": Path("/dev/full"), "stdin": Path("/dev/stdin"),
            "long": room / "in" / ("x" * 3000),
            "nowhere": room / "no" / "where.mp4",
        }[what]  # fmt: skip
    where = chance.choice(PLACES)
    about = f"{where}: {what}"
    clip = whole / "clip.mp4"
    if where == "target":
        return _render(room, chance, "--target", path, *PASSIVE, about=about)
    if where == "voice":
        return _render(room, chance, "--target", clip, *PASSIVE, "--audio", path, about=about)
    if where in ("source", "more"):
        first = ("--source", whole / "photo.png") if where == "more" else ()
        return _render(room, chance, "--target", clip, "--no-sync", *first, "--source", path, about=about)
    if where == "plan":
        return Case(0, "", about, ("render", "--plan", str(path), "--quiet"))
    if where == "weights":
        return _render(room, chance, "--target", clip, *PASSIVE, "--weights", path, about=about)
    if where == "jobs":
        return Case(0, "", about, ("batch", str(path), "--quiet"))
    if where == "verify":
        return Case(0, "", about, ("verify", str(path), "--frames", "0"))
    if where == "output":
        given = ("render", "--target", str(clip), *PASSIVE, "--output", str(path), "--overwrite", *QUIET)
        inside = path.is_relative_to(room) and what in ("dangling", "loop", "link", "empty", "locked", "fifo", "socket")
        return Case(0, "", about, given, path if inside else None, made=(f"in/{path.name}",) if inside else ())
    if where == "report":
        case = _render(room, chance, "--target", clip, *PASSIVE, "--report", path, about=about)
        return Case(0, "", about, case.arguments, case.output, made=(f"in/{path.name}",))
    given = ("render", "--target", str(clip), *PASSIVE, "--save-plan", str(path), "--overwrite")
    return Case(0, "", about, given, made=(f"in/{path.name}",))


def plan(chance: random.Random, whole: Path, room: Path) -> Case:
    """Plan files: broken as bytes, as JSON, or in their meaning."""
    record: dict[str, object] = {
        "source": None, "target": str(whole / "clip.mp4"), "audio": str(whole / "voice.wav"),
        "output": str(room / "out" / "dubbed.mp4"), "swap": False, "sync": False, "preset": "compact", "device": "cpu",
        "fit": "clip", "face": None, "mode": "cross", "order": "swap-sync", "encoder": "auto", "crf": 30,
        "encoder_preset": "auto", "pixel_format": "auto", "batch_size": 4, "segment_seconds": 60.0, "map": [["0", "x.png"]],
        "voices": [], "more_sources": [], "start": "0", "end": "1/5", "audio_mix": "replace", "silence": "neutral",
        "system": "swaptalk", "occlusion": True, "provenance": True, "sign_cert": None, "sign_key": None,
        "timestamp_url": None, "weights": None, "overwrite": False, "fresh": False,
    }  # fmt: skip
    record["map"] = []
    kept = [name for name in record if name in ("source", "target", "audio", "output") or chance.random() < 0.5]
    record = {name: record[name] for name in kept}
    if "swap" not in record or "sync" not in record:
        record |= {"swap": False, "sync": False}
    what = chance.random()
    if what < 0.7:
        several = chance.random() < 0.2
        spoilt = damage.spoil_words(chance, [record, {"plan": record}] if several else record)
        data, about = damage.json_bytes(spoilt), "plan: words"
    elif what < 0.75:
        data, about = b"[" * 10 ** chance.randrange(1, 6), "plan: deep"
    else:
        data, about = damage.spoil_text(chance, json.dumps(record)), "plan: text"
    path = room / "in" / "plan.json"
    path.write_bytes(data)
    given = ("render", "--plan", str(path), "--quiet", *chance.choice(((), (), (), ("--dry-run",))))
    return Case(0, "", about, given, room / "out" / "dubbed.mp4", made=("in", "here"))


def jobs(chance: random.Random, whole: Path, room: Path) -> Case:
    """Tables, most of them refused before a job begins: each job is a process of its own."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["target", "audio", "output", "swap", "sync", "device", "crf", "start", "voices"])
    clip = whole / ("clip.mp4" if chance.random() < 0.2 else "nothing.mp4")
    table.writerow([clip, "", room / "out" / "dubbed.mp4", "no", "no", "cpu", "30", "", ""])
    path = room / "in" / "jobs.csv"
    path.write_bytes(damage.spoil_text(chance, text.getvalue()))
    if chance.random() < 0.2:
        (room / "in" / "jobs.results.jsonl").write_bytes(
            damage.spoil(chance, b'{"row": 2, "output": "x", "state": "done"}\n')
        )
    return Case(0, "", "jobs: text", ("batch", str(path), "--quiet"), made=("in", "out"))


def preset(chance: random.Random, whole: Path, room: Path) -> Case:
    """A preset folder: a file that its manifest knows otherwise, one that it vouches for, or the manifest itself."""
    origin, folder = weights(), room / "in" / "weights"
    folder.mkdir()
    paths = [path.relative_to(origin) for path in origin.rglob("*") if path.is_file() and path.name != "README.md"]
    files = sorted(path.as_posix() for path in paths if "runs" not in path.parts)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(origin / name, folder / name)
    networks = [name for name in files if name.endswith(".safetensors")]
    configs = [name for name in files if name.endswith(".json")]
    what = chance.choice(
        ("damage", "manifest", "manifest", "tensors", "tensors", "config", "config", "config", "lost", "odd")
    )
    if what == "damage":
        name = chance.choice(files)
        replace_file(folder / name, damage.spoil(chance, (folder / name).read_bytes()))
    elif what == "manifest":
        name = "manifest.toml"
        replace_file(folder / name, damage.spoil_text(chance, (folder / name).read_text()))
    elif what == "tensors":
        name = chance.choice(networks)
        replace_file(folder / name, spoil_tensors(chance, (folder / name).read_bytes()))
        vouch(folder, name)
    elif what == "config":
        name = chance.choice(configs)
        record = json.loads((folder / name).read_text())
        spoilt = damage.json_bytes(damage.spoil_words(chance, record))
        replace_file(folder / name, spoilt if chance.random() < 0.9 else damage.spoil(chance, spoilt))
        vouch(folder, name)
    elif what == "lost":
        name = chance.choice(files)
        (folder / name).unlink()
    else:
        name = chance.choice(files)
        (folder / name).unlink()
        chance.choice((os.mkdir, os.mkfifo, lambda p: os.symlink("/dev/zero", p), lambda p: os.symlink(p, p)))(
            folder / name
        )
    about = f"weights: {what} {name}"
    how = chance.random()
    if how < 0.2:
        return Case(0, "", about, ("weights", "check", str(folder)))
    if how < 0.6 or what not in ("tensors", "config"):
        return Case(
            0, "", about, ("faces", str(whole / "clip.mp4"), "--weights", str(folder)), made=("here/clip-faces",)
        )
    given = ("--target", whole / "clip.mp4", "--source", whole / "photo.png", "--weights", folder, "--end", "0.1")
    return _render(room, chance, *given, about=about, real=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a new file: the old one is a link to the installed weights."""
    path.unlink()
    path.write_bytes(data)


def vouch(folder: Path, name: str) -> None:
    """Let the manifest state what a file is now."""
    data = (folder / name).read_bytes()
    lines = (folder / "manifest.toml").read_text().splitlines()
    place = lines.index(f'file = "{name}"')
    lines[place + 1] = f"size = {len(data)}"
    lines[place + 2] = f'sha256 = "{hashlib.sha256(data).hexdigest()}"'
    replace_file(folder / "manifest.toml", ("\n".join(lines) + "\n").encode())


def spoil_tensors(chance: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header lies, or whose numbers are not finite, or that is spoilt like any other."""
    length = int.from_bytes(data[:8], "little")
    what = chance.random()
    if what < 0.4:
        head = damage.spoil_words(chance, json.loads(data[8 : 8 + length]))
        told = damage.json_bytes(head)
        return len(told).to_bytes(8, "little") + told + data[8 + length :]
    if what < 0.6:
        value = chance.choice(
            (b"\x00\x7c", b"\x00\xfe", b"\xff\x7f", b"\xff\xff")
        )  # infinite or no number, in half precision
        start = 8 + length + 2 * chance.randrange((len(data) - length) // 4)
        count = chance.randrange(1, (len(data) - start) // 2)
        return data[:start] + value * count + data[start + 2 * count :]
    return damage.spoil(chance, data)


def verify(chance: random.Random, whole: Path, room: Path) -> Case:
    """Marked clips, manifests beside clips, certificates of authorities."""
    what = chance.random()
    frames = "12" if chance.random() < 0.15 else "0"
    if what < 0.6:
        path, about = _spoilt(chance, whole, room, ("marked.mp4", "marked.mp4", "marked.mkv"))
        data = path.read_bytes()
        tail = (whole / "marked.mp4").read_bytes()
        place = tail.find(b"uuid")
        if path.suffix == ".mp4" and chance.random() < 0.5 and place > 0:  # the marks stand in boxes of their own
            start = place - 4 if chance.random() < 0.5 else tail.rfind(b"uuid") - 4
            end = min(len(tail), start + 2 ** chance.randrange(5, 15))
            data = tail[:start] + damage.spoil(chance, tail[start:end]) + tail[end:]
            path.write_bytes(data)
            about = "marked.mp4: its marks"
    elif what < 0.9:
        path, about = room / "in" / "marked.mkv", "sidecar"
        shutil.copy(whole / "marked.mkv", path)
        data = (whole / "marked.mkv.c2pa").read_bytes()
        (room / "in" / "marked.mkv.c2pa").write_bytes(damage.spoil(chance, data))
    else:
        path, about = whole / "marked.mp4", "anchors"
        (room / "in" / "anchors.pem").write_bytes(
            damage.spoil(chance, b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        )
    given = ["verify", str(path), "--frames", frames, *chance.choice(((), ("--json",)))]
    given += ["--trust", str(room / "in" / "anchors.pem")] if what >= 0.9 else []
    return Case(0, "", f"verify: {about}", tuple(given))


def data(chance: random.Random, whole: Path, room: Path) -> Case:
    """A prepared set of which one file is spoilt, and single clips that are scored."""
    if chance.random() < 0.3:
        path, about = _spoilt(chance, whole, room, ("clip.mp4",))
        order = [str(path), "--target", str(whole / "clip.mp4")]
        if chance.random() < 0.5:
            order = [str(whole / "clip.mp4"), "--target", str(path)]
        return Case(0, "", f"eval clip: {about}", ("eval", "clip", *order, "--preset", "compact", "--device", "cpu"))
    folder = room / "in" / "data"
    shutil.copytree(whole / "data", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    words = [path for path in files if path.suffix in (".json", ".jsonl", ".toml", ".csv")]
    path = chance.choice(words) if words and chance.random() < 0.6 else chance.choice(files)
    if path in words and chance.random() < 0.8:
        path.write_bytes(damage.spoil_text(chance, path.read_text()))
    elif chance.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(damage.spoil(chance, path.read_bytes()))
    given = (
        "eval", "hdtf", "--data", str(folder), "--out", str(room / "out" / "report"), "--split", "all", "--pairs", "1",
        "--setting", "self", "--methods", "ground-truth", "--preset", "compact", "--device", "cpu", "--quiet",
    )  # fmt: skip
    return Case(0, "", f"eval hdtf: {path.relative_to(folder)}", given, made=("out", "in"))


KINDS: dict[str, Make] = {
    "target": target, "odd": odd, "voice": voice, "source": source, "names": names, "special": special, "plan": plan,
    "jobs": jobs, "preset": preset, "verify": verify, "data": data,
}  # fmt: skip

SHARES = {
    "target": 28, "odd": 5, "voice": 15, "source": 10, "names": 6, "special": 8, "plan": 12, "jobs": 2, "preset": 6,
    "verify": 7, "data": 1,
}  # fmt: skip
"""Of a campaign, in percent; dearer kinds have less."""
