"""The compact stand-in for SyncNet: does the mouth have the shapes that the voice calls for?

Seven measures of the mouth (:func:`talkswap.faces.measures.mouth_shape`) are taken from the landmarks, and the compact
preset's speech encoder predicts them from the voice alone.  The embedding distance of SyncNet's protocol becomes, at each
offset,

    d(o) = 1 - mean over the seven of the Pearson correlation of shape(t) and expected(t + o)

and LSE-D and LSE-C follow from d as usual, at offsets of 15 frames to either side.  0 is perfect, 1 means unrelated.

Why not the sync expert: on 18 held-out clips its confidence was 0.15 with the true voice and 0.07 with another clip's
(the true one higher in 83 of 100 comparisons), and it costs 60 to 160 ms a frame.  These curves gave 0.44 against 0.19
(93 of 100) and cost half a millisecond a frame.

It flatters our own renders: the same encoder drives the compact preset's lips, and a dubbed clip scored 0.68 where the
clip that its voice comes from has 0.52.  Correlation with that clip's own mouth
(:mod:`talkswap.evaluation.metrics.lip_sync`) has no such bias.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from talkswap.checkpoints.preset_folder import weight_hashes
from talkswap.checkpoints.presets import find_preset
from talkswap.data.talking import LipListener
from talkswap.errors import TrainingDataError
from talkswap.evaluation.metrics.lip_sync import RATE, REACH, SyncScore, grid_rows, score_of
from talkswap.evaluation.metrics.metric import Judge, check_landmarks
from talkswap.faces.measures import mouth_shape, pearson
from talkswap.types import FloatArray, UInt8Image
from talkswap.voice.mel import SILENCE, MelConfig, log_mel

HZ = 16000
LEAST = RATE  # frames with a face: a second, or else correlations are accidents


class MouthJudge:
    """Correlation of mouth shapes with those that the compact speech encoder expects.

    Raises:
        WeightsMissingError, WeightsCorruptError: the compact preset is not complete.
    """

    def __init__(self) -> None:
        preset = find_preset("compact")
        self.network = LipListener().network
        self.judge = Judge(
            kind="syncnet",
            name="compact mouth shapes",
            comparable=False,
            sha256=weight_hashes(preset).get("voice/speech_encoder.safetensors", ""),
            note="The speech encoder that judges also drives the compact preset's lips, which flatters our own renders",
        )

    def __call__(
        self, pictures: Iterable[UInt8Image], landmarks: FloatArray, times: NDArray[np.float64], voice: FloatArray
    ) -> SyncScore:
        """See :class:`talkswap.evaluation.metrics.lip_sync.SyncJudge`; the pictures are ignored.

        Raises:
            TrainingDataError: less than a second with a face and a voice.
        """
        check_landmarks(landmarks)
        rows = grid_rows(times, len(voice) / HZ)
        shape = mouth_shape(landmarks[rows]) if len(rows) else np.zeros((0, 7), np.float32)
        faces = np.flatnonzero(np.isfinite(shape).all(1))
        if len(faces) < LEAST:
            raise TrainingDataError(
                f"{len(faces)} frames at 25 frames/s with a face are too few", f"give at least {LEAST} with their sound"
            )
        # Offsets are taken by shifting the expected curves, since those exist at every moment.
        expected = self.expected(voice, len(rows))
        return score_of(curve_distances(shape[faces], expected, faces), len(faces))

    @torch.inference_mode()
    def expected(self, voice: FloatArray, count: int) -> FloatArray:
        """Mouth shapes (count + 2 x 15, 7) that a voice calls for, at 25 per second from 15 frames before its start.

        The voice is silent beyond its ends.
        """
        config, mel = self.network.config, MelConfig()
        features = torch.from_numpy(log_mel(np.asarray(voice, np.float32), mel))
        # The voice is padded with silence to both sides: offsets reach beyond its ends,
        # and the network's field needs context around each token.
        lead = int(np.ceil(REACH / RATE * float(mel.rate)))  # feature frames before the voice
        need = int(np.ceil((count + REACH) / RATE * float(mel.rate))) + config.stride
        half = (config.field - 1) // 2
        after = max(0, need - len(features)) + half
        padded = F.pad(features[None], (0, 0, lead + half, after), value=SILENCE)
        shapes = self.network.shapes(self.network.tokens(padded))[0].float().numpy()  # N 7
        # Token n is at feature n * stride - lead of the voice.
        moments = (np.arange(count + 2 * REACH) - REACH) / RATE
        positions = (moments * float(mel.rate) + lead) / config.stride
        tokens = np.arange(len(shapes))
        return np.stack([np.interp(positions, tokens, column) for column in shapes.T], axis=1).astype(np.float32)


def curve_distances(shapes: FloatArray, expected: FloatArray, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """One minus the mean correlation, at each offset.

    Args:
        shapes: K M, measures of the mouth where a face is.
        expected: T + 30 M, those that the voice calls for; row 15 belongs to moment 0.
        rows: K moments of ``shapes``.

    Returns:
        31, as :func:`talkswap.evaluation.metrics.lip_sync.offset_distances`.
    """
    measures = range(shapes.shape[1])
    return np.array(
        [1 - np.mean([pearson(shapes[:, m], expected[rows + o, m]) for m in measures]) for o in range(2 * REACH + 1)]
    )
