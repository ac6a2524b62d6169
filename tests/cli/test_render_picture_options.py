"""``talkswap render``'s options for parts, sound and encoder, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talkswap.cli import main


@pytest.fixture
def bare(talking_clip: Path, tmp_path: Path) -> list[str]:
    """A render that changes nothing; it goes to an .mkv file."""
    output = str(tmp_path / "out.mkv")
    return ["render", "--target", str(talking_clip), "--no-swap", "--no-sync", "--preset", "compact", "-q"] + [
        "--output",
        output,
    ]


def test_every_option_reaches_the_render(bare: list[str], tmp_path: Path, voice_file: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--start", "0:00.08", "--end", "00:00:00.400", "--audio", str(voice_file), "--audio-mix", "duck"]
    options += ["--encoder", "libx265", "--encoder-preset", "ultrafast", "--crf", "30", "--pixel-format", "yuv444p"]
    assert main([*bare, *options, "--report", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["frames_out"] == 8 and told["streams"] == ["sound 1 (aac): mixed under the voice"]
    plan = told["plan"]
    assert (plan["start"], plan["end"], plan["audio_mix"]) == ("2/25", "2/5", "duck")
    assert (plan["encoder"], plan["encoder_preset"], plan["crf"]) == ("libx265", "ultrafast", 30)
    from talkswap.media.probe import probe

    info = probe(tmp_path / "out.mkv")
    assert (info.codec, info.pixel_format) == ("hevc", "yuv444p")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--start", "1:75"], 2, "--start '1:75'"),
        (["--end", "soon"], 2, "--end 'soon' is no time"),
        (["--start", "100"], 2, "behind the end of the clip"),
        (["--start", "0.3", "--end", "0.2"], 2, "does not come after"),
        (["--encoder", "prores_ks", "--crf", "3"], 14, "prores_ks has no crf"),
        (["--encoder-preset", "hasty"], 14, "no encoder preset 'hasty'"),
        (["--pixel-format", "rgb24"], 14, "cannot write the pixel format 'rgb24'"),
    ],
)
def test_bad_values_are_named(
    bare: list[str], capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: str
) -> None:
    assert main([*bare, *options]) == code
    said = capsys.readouterr().err
    assert words in said and "hint:" in said and "Traceback" not in said
