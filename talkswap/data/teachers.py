"""Teacher networks that label training data; never needed to render.

The dense landmarks come from MediaPipe's face landmarker (478 points), installed by hand for training only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from talkswap.errors import DependencyError, InputMissingError
from talkswap.types import FloatArray, UInt8Image

LANDMARKER_FILE = "face_landmarker.task"


class LandmarkTeacher:
    """478 landmarks of the one face in a picture or of a clip's frames.

    Args:
        folder: where ``face_landmarker.task`` lies.
        video: follow the face from frame to frame instead of detecting anew in each.
    """

    def __init__(self, folder: Path, video: bool) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise DependencyError(
                "preparing training data needs the package mediapipe", "pip install mediapipe"
            ) from error
        path = folder / LANDMARKER_FILE
        if not path.is_file():
            raise InputMissingError(f"no landmark teacher at {path}", "point --teachers at the folder that holds it")
        self._mediapipe: Any = mediapipe
        self._video = video
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(path)),
                running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
                num_faces=1,
                min_face_detection_confidence=0.3,
                min_face_presence_confidence=0.3,
                min_tracking_confidence=0.3,
            )
        )

    def __enter__(self) -> LandmarkTeacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._landmarker.close()

    def __call__(self, rgb: UInt8Image, milliseconds: int = 0) -> FloatArray | None:
        """Landmarks (478 x 3, px; z in the x scale) or None; times must grow from call to call for a clip."""
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        result = (
            self._landmarker.detect_for_video(image, milliseconds) if self._video else self._landmarker.detect(image)
        )
        if not result.face_landmarks:
            return None
        height, width = rgb.shape[:2]
        return np.array([(p.x * width, p.y * height, p.z * width) for p in result.face_landmarks[0]], np.float32)


def label_clip(
    folder: Path, frames: Iterable[tuple[Fraction, UInt8Image]]
) -> Iterator[tuple[Fraction, UInt8Image, FloatArray | None]]:
    """Each frame of a clip with its landmarks, in order."""
    with LandmarkTeacher(folder, video=True) as teacher:
        for index, (time, rgb) in enumerate(frames):
            yield time, rgb, teacher(rgb, int(time * 1000) + index)
