"""``talkswap bench``: how fast a render is here, stage by stage, beside a bare decode and encode of the same clip."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from talkswap.cli.options import DeviceName, PresetName, SystemName, WeightsFolder
from talkswap.cli.output import note, to_json, write_json
from talkswap.errors import DeviceError, InputMissingError, TalkswapError, UsageError
from talkswap.types import DEFAULT_SYSTEM, RenderPlan

if TYPE_CHECKING:
    from torch import Tensor

    from talkswap.device import Device
    from talkswap.systems.description import Workload


def example(name: str) -> Path:
    """A file of the checkout's examples/.

    Raises:
        InputMissingError: this is no checkout.
    """
    path = Path(__file__).resolve().parents[2] / "examples" / name
    if not path.is_file():
        raise InputMissingError(
            f"there is no {path}", "examples come with the checkout; give --source, --target and --audio"
        )
    return path


def bare_pass(target: Path, output: Path, crf: int | None, encoder: str) -> tuple[int, float]:
    """Decode ``target`` and encode its pictures as they are.

    Returns:
        (frames, seconds): the floor under every render of this clip.
    """
    from talkswap.media.codecs import EncoderSettings, encoder_for
    from talkswap.media.probe import probe
    from talkswap.media.reader import ClipReader
    from talkswap.media.writer import VideoWriter

    info = probe(target)
    began = time.perf_counter()
    count = 0
    with (
        ClipReader(info) as reader,
        VideoWriter(output, info, EncoderSettings(encoder_for(encoder, output), crf)) as writer,
    ):
        for frame in reader.frames():
            writer.write(frame.rgb, frame.time)
            count += 1
    return count, time.perf_counter() - began


def lengthened(audio: Path, seconds: float, folder: Path) -> Path:
    """The voice repeated or cut to ``seconds``, as a WAV file in ``folder``."""
    import wave

    import numpy as np

    from talkswap.media.sound import load_voice

    voice = load_voice(audio)
    samples = np.resize(voice.samples, max(1, round(seconds * voice.hz)))
    path = folder / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(voice.hz)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def run_fresh(arguments: list[str]) -> tuple[float, float]:
    """Run ``talkswap render`` in a process of its own.

    Returns:
        (seconds, peak memory in MB) of the whole process, start and imports included.

    Raises:
        TalkswapError: with the render's own exit code; what it wrote on stderr has been passed on.
    """
    began = time.perf_counter()
    # -P: a folder named talkswap in the current one, such as a clone, is not what runs.
    command = [sys.executable, "-P", "-m", "talkswap", "render", *arguments]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if hasattr(os, "wait4"):
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.wait()  # it got the same signal and cleans up
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        peak = usage.ru_maxrss * unit / 1e6
    else:
        child.wait()
        peak = 0.0
    seconds = time.perf_counter() - began
    if child.returncode:
        error = TalkswapError(f"the render left with exit code {child.returncode}", "its own message stands above")
        error.exit_code = child.returncode if child.returncode > 0 else 1
        raise error
    return seconds, peak


def measure(plan: RenderPlan, seconds: float | None) -> dict[str, Any]:
    """Render once in a fresh process and set it beside the bare pass."""
    with tempfile.TemporaryDirectory(prefix="talkswap-bench-") as place:
        folder = Path(place)
        audio, fit = plan.audio, plan.fit
        if seconds is not None:
            from talkswap.media.probe import probe

            audio = lengthened(plan.audio or plan.target, seconds, folder)
            fit = "loop" if Fraction(seconds) > probe(plan.target).duration else "voice"
        # First the floor: what decoding and encoding cost without any network.
        frames, bare = bare_pass(plan.target, folder / "bare.mp4", plan.crf, plan.encoder)
        report = folder / "report.json"
        arguments = ["--source", str(plan.source), "--target", str(plan.target), "--audio", str(audio)]
        arguments += ["--output", str(folder / "dubbed.mp4"), "--fit", fit, "--system", plan.system]
        arguments += ["--preset", plan.preset, "--device", plan.device]
        if plan.weights is not None:
            arguments += ["--weights", str(plan.weights)]
        arguments += ["--batch-size", str(plan.batch_size), "--report", str(report), "--quiet"]
        wall, peak = run_fresh(arguments)
        done = json.loads(report.read_text(encoding="utf-8"))
    bare_frame = bare / frames
    render_frame = done["seconds"] / done["frames_out"]
    return {
        "real_time_factor": done["real_time_factor"],
        "ratio_to_bare": render_frame / bare_frame,
        "peak_memory_mb": peak or done["peak_memory_mb"],
        "frames": done["frames_out"],
        "video_seconds": done["video_seconds"],
        "render_seconds": done["seconds"],
        "process_seconds": wall,
        "render_ms_per_frame": 1000 * render_frame,
        "bare_ms_per_frame": 1000 * bare_frame,
        "stage_seconds": done["timings"],
        "system": plan.system,
        "preset": done["preset"],
        "device": done["device"],
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": done["versions"],
    }


def command(
    source: Annotated[Path | None, typer.Option(help="Photo.", show_default="examples/source.png")] = None,
    target: Annotated[Path | None, typer.Option(help="Clip.", show_default="examples/target.mp4")] = None,
    audio: Annotated[Path | None, typer.Option(help="Voice.", show_default="examples/voice.wav")] = None,
    system: SystemName = DEFAULT_SYSTEM,
    preset: PresetName = "auto",
    weights: WeightsFolder = None,
    device: DeviceName = "auto",
    batch_size: Annotated[int, typer.Option(min=0, help="Frames per network call; 0 = chosen.")] = 0,
    seconds: Annotated[
        float | None, typer.Option(min=0.2, help="Loop or cut the clip to this length.", show_default="the clip's own")
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Time the networks alone, untrained, in the sizes of --preset paper or compact."
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON here as well.", show_default=False)] = None,
) -> None:
    """Measure a render here, as JSON.

    Time per stage, real-time factor, ratio to a bare decode + encode of the same clip, and the peak memory of a
    fresh process.
    """
    if random_weights:
        if any(option is not None for option in (source, target, audio, seconds, weights)):
            raise UsageError("--random-weights times networks alone and takes no clip", "leave the other inputs out")
        if preset == "auto":
            raise UsageError("--random-weights needs the sizes of one preset", "add --preset paper or --preset compact")
        from talkswap.device import choose_device

        chosen = choose_device(device)
        figures = time_networks(system, preset, chosen, batch_size or (4 if chosen.name == "cpu" else 16))
        if output is not None:
            write_json(output, figures)
        typer.echo(to_json(figures))
        note(f"{figures['network_ms_per_frame']:.1f} ms per frame in the networks, {figures['device_note']}")
        return
    plan = RenderPlan(
        source=source or example("source.png"),
        target=target or example("target.mp4"),
        audio=audio or example("voice.wav"),
        output=Path("dubbed.mp4"),
        system=system,
        preset=preset,
        weights=weights,
        device=device,
        batch_size=batch_size,
    )
    figures = measure(plan, seconds)
    if output is not None:
        write_json(output, figures)
    typer.echo(to_json(figures))
    note(
        f"real-time factor {figures['real_time_factor']:.2f}, {figures['ratio_to_bare']:.1f}x a bare decode + encode, "
        f"{figures['peak_memory_mb']:.0f} MB at most"
    )


# --- How long a system's networks take, stage by stage, with random weights: for sizes that nobody has trained here.


ROUNDS = 3  # after one that is not counted; the median is reported


def milliseconds(work: Callable[[], Tensor], device: Device) -> float:
    """Median time of a call, the device's own queue waited for."""
    import torch

    def wait() -> None:
        if device.name == "cuda":
            torch.cuda.synchronize()
        elif device.name == "mps":
            torch.mps.synchronize()

    times = []
    # The first round also compiles kernels and fills caches.
    for _ in range(ROUNDS + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])


def time_networks(system: str, preset: str, device: Device, batch_size: int) -> dict[str, Any]:
    """Milliseconds per frame of each stage of a system, and per clip of the source.

    Args:
        system: whose networks.
        preset: ``paper`` or ``compact``.
        device: where the networks run.
        batch_size: frames per call.

    Raises:
        UsageError: there is no such system, or it can't be timed without weights.
        DependencyError: a package that the networks need is absent.
        DeviceError: the device's memory does not hold the batch.
    """
    import torch

    from talkswap.checkpoints.networks import resolve
    from talkswap.device import peak_memory_mb, versions
    from talkswap.systems.registry import find_system

    description = find_system(system)
    if not description.bench:
        raise UsageError(f"the system {system} says nothing of its stages to time", "leave --random-weights out")
    try:
        with torch.inference_mode():
            workload: Workload = resolve(description.bench)(preset, device, batch_size)
            times = {name: milliseconds(work, device) / batch_size for name, work in workload.stages.items()}
            source_time = milliseconds(workload.source, device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the GPU's memory does not hold {batch_size} frames at once", "give a smaller --batch-size"
        ) from error
    return {
        "random_weights": True,
        "system": system,
        "preset": preset,
        "device": device.name,
        "device_note": device.reason,
        "precision": str(device.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "crop_px": workload.crop_px,
        "parameters": {
            name: sum(p.numel() for p in network.parameters()) for name, network in workload.networks.items()
        },
        "ms_per_frame": times,
        "network_ms_per_frame": sum(times.values()),
        "source_ms": source_time,
        "peak_memory_mb": peak_memory_mb(),
        "gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if device.name == "cuda" else None,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": versions(),
    }
