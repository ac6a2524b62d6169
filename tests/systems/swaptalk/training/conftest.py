from tests.data.conftest import example_frames, example_sound, prepared, videos
from tests.data.talking_clips import talking_clips
from tests.train.talking import talking_folder

__all__ = ["example_frames", "example_sound", "prepared", "talking_clips", "talking_folder", "videos"]
