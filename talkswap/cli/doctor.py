"""``talkswap doctor``: can this machine render, and with what?"""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from talkswap.cli.output import OPENCV_HINT, to_json
from talkswap.errors import DependencyError, DeviceError, EncoderError, OutputUnwritableError, TalkswapError

DISK_NEEDED = 1 << 30  # bytes; a render writes its output twice for a moment
MEMORY_NEEDED = 2 << 30  # bytes


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's list."""

    check: str
    state: str  # ok | warning | failed
    detail: str
    hint: str = ""
    exit_code: int = 0  # of the whole command, where this is the first failure


def check_python() -> list[Finding]:
    version = platform.python_version()
    return [Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}, {sys.executable}")]


def check_packages() -> list[Finding]:
    """Versions of what a render imports; what only the paper preset needs may be absent."""
    import cv2  # a missing system library shows here, as an ImportError

    findings = [Finding("opencv", "ok", str(cv2.__version__))]
    findings += [Finding(name, "ok", metadata.version(name)) for name in ("torch", "av")]
    for name in ("transformers", "insightface"):
        try:
            findings.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            absent = "not installed; only the paper preset needs it: pip install 'talkswap[paper]'"
            findings.append(Finding(name, "ok", absent))
    return findings


def check_device() -> list[Finding]:
    """Devices, and whether bf16 is worth it on this CPU (measured, since a flag does not say so)."""
    import torch

    image = torch.randn(1, 128, 80, 80).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(128, 128, 3, padding=1)

    def seconds(kind: torch.dtype) -> float:
        network, picture = layer.to(kind), image.to(kind)
        times = []
        with torch.inference_mode():
            for _ in range(6):
                began = time.perf_counter()
                network(picture)
                times.append(time.perf_counter() - began)
        return min(times)  # the first one also prepares; others may wait for another process

    ratio = seconds(torch.float32) / seconds(torch.bfloat16)
    capability = torch.backends.cpu.get_cpu_capability()
    findings = [
        Finding(
            "cpu",
            "ok",
            f"{torch.get_num_threads()} threads, {capability}, bf16 convolutions {ratio:.1f}x as fast as float32",
        )
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                free, total = torch.cuda.mem_get_info(index)
            except RuntimeError as error:
                raise DeviceError(
                    f"cuda:{index} does not answer: {error}", "check the driver, or use --device cpu"
                ) from error
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            name = torch.cuda.get_device_name(index)
            findings.append(
                Finding(f"cuda:{index}", "ok", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {bf16}")
            )
    else:
        reason = "this torch is a CPU build" if torch.version.cuda is None else "no CUDA device answers"
        findings.append(Finding("cuda", "ok", f"not available: {reason}"))
    if torch.backends.mps.is_available():
        findings.append(Finding("mps", "ok", "available"))
    return findings


def check_ffmpeg() -> list[Finding]:
    """The ffmpeg program for the last pass, and the encoders that really encode."""
    import av

    from talkswap.media.codecs import CODECS, check_encoder
    from talkswap.media.program import find_ffmpeg

    program = find_ffmpeg()
    findings = [Finding("ffmpeg", "ok", f"{program.path} ({program.note})" if program.note else str(program.path))]
    version = ".".join(str(part) for part in av.library_versions["libavcodec"])
    working, broken = [], []
    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder logs its settings
    for name in CODECS:
        try:
            check_encoder(name)
            working.append(name)
        except EncoderError:
            broken.append(name)
    if "libx264" not in working:
        raise EncoderError("the encoder libx264 does not work on this machine", "pip install --force-reinstall av")
    lacking = f"; not here: {', '.join(broken)}" if broken else ""
    findings.append(Finding("encoders", "ok", f"{', '.join(working)} (libavcodec {version}){lacking}"))
    return findings


def check_corridor() -> list[Finding]:
    """A few frames and a tone through the writer, the muxer and the reader, as in a render."""
    import numpy as np

    from talkswap.media.codecs import EncoderSettings
    from talkswap.media.mux import mux
    from talkswap.media.probe import probe
    from talkswap.media.reader import ClipReader
    from talkswap.media.writer import VideoWriter
    from talkswap.types import ClipInfo, ColourTags, Voice

    count, rate = 5, Fraction(25)
    ramp = np.linspace(16, 235, 64, dtype=np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (64, 64, 3)))
    with tempfile.TemporaryDirectory(prefix="talkswap-doctor-") as place:
        folder = Path(place)
        silent, whole = folder / "silent.mp4", folder / "whole.mp4"
        info = ClipInfo(
            silent, 64, 64, rate, 1 / rate, count / rate, count, 0, "h264", "yuv420p", 8, ColourTags(), False
        )
        times = [index / rate for index in range(count)]
        with VideoWriter(silent, info, EncoderSettings(), count / rate) as writer:
            for when in times:
                writer.write(picture, when)
        tone = np.sin(np.arange(3200, dtype=np.float32) * 0.2) * np.float32(0.1)
        mux(silent, Voice(tone.astype(np.float32), 16000), silent, whole, times, count / rate)
        with ClipReader(probe(whole)) as reader:
            frames = list(reader.frames())
    error = max(float(np.abs(frame.rgb.astype(np.int16) - picture).mean()) for frame in frames)
    if len(frames) != count or error > 3:
        raise EncoderError(
            f"{count} frames were written and {len(frames)} read back, {error:.1f} grey levels off",
            "pip install --force-reinstall av",
        )
    return [Finding("encode, join, decode", "ok", f"{count} frames there and back, {error:.2f} grey levels off")]


def check_presets() -> list[Finding]:
    """Which sets of weights are complete; fails when none is."""
    from talkswap.checkpoints.networks import PRESETS
    from talkswap.checkpoints.preset_folder import repair_hint
    from talkswap.checkpoints.presets import preset_state, resolve_auto
    from talkswap.systems.registry import requirements

    findings = []
    needs = requirements()
    for name in (preset for preset in reversed(PRESETS) if preset in needs):
        preset = preset_state(name, needs[name])
        where = ", ".join(str(folder) for folder in preset.folders) or "nowhere"
        if preset.complete:
            findings.append(Finding(f"preset {name}", "ok", f"complete: {where}"))
        else:
            lacking = ", ".join(preset.missing)
            state = "ok" if name != "compact" else "warning"
            findings.append(Finding(f"preset {name}", state, f"not complete: {lacking} missing", repair_hint(name)))
    chosen = resolve_auto(needs)
    return [*findings, Finding("preset auto", "ok", f"takes {chosen.preset.name}: {chosen.reason}")]


def check_folder(folder: Path) -> list[Finding]:
    """Whether a preset folder that the user names can render."""
    from talkswap.checkpoints.presets import find_preset
    from talkswap.systems.registry import requirements

    preset = find_preset("auto", folder, requirements())
    about = f"a complete {preset.name} preset, every file whole"
    return [Finding(f"weights {folder}", "ok", f"{about}; {preset.notice}" if preset.notice else about)]


def check_space() -> list[Finding]:
    """Memory and disk."""
    findings = []
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        state = "ok" if total >= MEMORY_NEEDED else "warning"
        findings.append(Finding("memory", state, f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} unused"))
    except (AttributeError, ValueError, OSError):
        findings.append(Finding("memory", "ok", "unknown on this system"))
    for label, folder in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        room = shutil.disk_usage(folder).free
        detail = f"{room / 2**30:.1f} GiB free in {folder}"
        if room < DISK_NEEDED:
            findings.append(Finding(label, "warning", detail, "free some space"))
        else:
            findings.append(Finding(label, "ok", detail))
    if not os.access(Path.cwd(), os.W_OK):
        raise OutputUnwritableError(
            f"the current folder {Path.cwd()} is read-only", "change to another folder, or give --output"
        )
    return findings


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_device,
    check_ffmpeg,
    check_corridor,
    check_presets,
    check_space,
)


def examine(weights: Path | None = None) -> list[Finding]:
    """All checks, and that of a preset folder; a failure becomes a finding and does not stop the others."""
    findings: list[Finding] = []
    # A failed check must not hide the others, so each failure becomes a line.
    own = () if weights is None else (("weights", lambda: check_folder(weights)),)
    for name, check in (*((check.__name__.removeprefix("check_"), check) for check in CHECKS), *own):
        try:
            findings += check()
        except TalkswapError as error:
            findings.append(Finding(name, "failed", error.message, error.hint, error.exit_code))
        except ImportError as error:
            missing = DependencyError(f"{error.name} cannot be imported: {error}")
            hint = OPENCV_HINT if "libGL" in str(error) else "reinstall talkswap with pip"
            findings.append(Finding(name, "failed", missing.message, hint, missing.exit_code))
    return findings


def command(
    weights: Annotated[
        Path | None, typer.Option(help="Preset folder to look at as well.", readable=False, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Test what a render needs: decoder, encoders, devices, weights, space. Fails when a render cannot work."""
    findings = examine(weights)
    if as_json:
        typer.echo(to_json(findings))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            typer.echo(f"{finding.state:7}  {finding.check.ljust(width)}  {finding.detail}")
            if finding.hint and finding.state != "ok":
                typer.echo(f"{'':7}  {'':{width}}  hint: {finding.hint}")
    code = next((finding.exit_code for finding in findings if finding.state == "failed"), 0)
    if code:
        raise typer.Exit(code)
