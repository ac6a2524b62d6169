"""Every failure that a user can meet, each with one sentence, a hint and its own exit code.

The command line prints ``error: MESSAGE``, an empty line and ``hint: HINT`` on stderr and exits with
:attr:`TalkswapError.exit_code`.  Scripts rely on the codes, so no code ever gets a second meaning.
"""


class TalkswapError(Exception):
    """A named failure.

    Args:
        message: one sentence without a full stop, naming the thing that failed.
        hint: the user's next step, without a full stop; a command that it names exists.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TalkswapError):
    """Options that contradict each other or name something that does not exist."""

    exit_code = 2


class InputMissingError(TalkswapError):
    """An input path does not exist, or is a directory."""

    exit_code = 3


class UnreadableMediaError(TalkswapError):
    """A file is damaged, or is no picture, video or sound where one is expected."""

    exit_code = 4


class NoVideoError(TalkswapError):
    """The target has no video stream or no frame that decodes."""

    exit_code = 5


class NoAudioError(TalkswapError):
    """The voice has no audio stream or no samples."""

    exit_code = 6


class NoSourceFaceError(TalkswapError):
    """The source photo shows no usable face."""

    exit_code = 7


class NoTargetFaceError(TalkswapError):
    """No frame of the target clip shows a face, or none shows the chosen person."""

    exit_code = 8


class OutputExistsError(TalkswapError):
    """The output exists, and ``--overwrite`` is not set."""

    exit_code = 9


class OutputUnwritableError(TalkswapError):
    """The output's folder is missing or read-only, its name has an unknown ending, or the disk is full."""

    exit_code = 10


class WeightsMissingError(TalkswapError):
    """A preset or a file that it needs is not on this machine."""

    exit_code = 11


class WeightsCorruptError(TalkswapError):
    """A weights file differs from the size or sha256 that its manifest states."""

    exit_code = 12


class DeviceError(TalkswapError):
    """The chosen device is not available, or ran out of memory at the smallest batch."""

    exit_code = 13


class EncoderError(TalkswapError):
    """The encoder or muxer is missing or failed."""

    exit_code = 14


class OutputCheckError(TalkswapError):
    """The finished file breaks a promise: frame count, time stamps, sound length."""

    exit_code = 15


class DownloadError(TalkswapError):
    """A download failed, or ``--offline`` forbids it."""

    exit_code = 16


class TrainingDataError(TalkswapError):
    """Training or evaluation data are missing, empty or of another version."""

    exit_code = 17


class TrainingError(TalkswapError):
    """A training run cannot start, resume or continue (another configuration, a loss that isn't finite)."""

    exit_code = 18


class DependencyError(TalkswapError):
    """An optional package that this command needs is not installed."""

    exit_code = 19


class PublishError(TalkswapError):
    """Publishing weights failed: no token, no licence, the hub refuses them or doesn't answer."""

    exit_code = 20


class PartialError(TalkswapError):
    """Some of several pieces of work failed; the message names them, and the rest is done."""

    exit_code = 21


class NoMarkError(TalkswapError):
    """`talkswap verify` finds no mark of synthetic media in a file."""

    exit_code = 22
