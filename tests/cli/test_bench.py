"""``talkswap bench``: the parts that a figure is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkswap.cli import bench
from talkswap.errors import InputMissingError
from talkswap.media.probe import probe
from talkswap.media.sound import load_voice

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_bare_pass_writes_every_frame(tmp_path: Path) -> None:
    frames, seconds = bench.bare_pass(EXAMPLES / "target.mp4", tmp_path / "bare.mp4", 30, "libx264")
    assert frames == probe(tmp_path / "bare.mp4").frames == probe(EXAMPLES / "target.mp4").frames
    assert 0 < seconds < 60


@pytest.mark.parametrize("seconds", [1.5, 12.25])
def test_a_voice_of_any_length(tmp_path: Path, seconds: float) -> None:
    path = bench.lengthened(EXAMPLES / "voice.wav", seconds, tmp_path)
    assert float(load_voice(path).seconds) == pytest.approx(seconds, abs=1e-4)


def test_a_failing_render_keeps_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkswap").mkdir()  # such as a clone beside the clips: not what the child runs
    (tmp_path / "talkswap" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    missing = str(tmp_path / "nothing.mp4")
    with pytest.raises(Exception, match="exit code 3") as caught:
        bench.run_fresh(["--target", missing, "--audio", missing, "--no-swap", "--output", str(tmp_path / "out.mp4")])
    assert caught.value.exit_code == 3  # type: ignore[attr-defined]
    assert f"error: {missing} does not exist" in capfd.readouterr().err


def test_examples_are_those_of_the_checkout() -> None:
    assert bench.example("target.mp4") == EXAMPLES.resolve() / "target.mp4"
    with pytest.raises(InputMissingError):
        bench.example("nothing.mp4")
