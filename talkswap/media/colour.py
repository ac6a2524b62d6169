"""Pixels between a stream's Y'CbCr and the RGB that networks see, by the stream's own matrix and range.

Every conversion names matrix and range on both sides; nothing is left to a default.  swscale's rounding
flags are set because its fast path darkens a picture by one to two levels.
"""

import os
from typing import Any

import numpy as np
from av import VideoFormat, VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from talkswap.errors import UnreadableMediaError
from talkswap.types import ClipInfo, ColourTags, Int8Image, UInt8Image

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
FULL_RANGE = 2
LIMITED_RANGE = 1
UNSPECIFIED = 2
BT709, BT601, BT2020 = 1, 6, 9

# FFmpeg's AVColorSpace -> swscale's matrix; 0 (RGB), 2 (unspecified) and 3 (reserved) are guessed.
_SWSCALE_MATRIX = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_GUESSED = (0, UNSPECIFIED, 3)

# Bilinear chroma up and area-averaged chroma down come closest to each other's inverse among swscale's
# filters at this cost (53 dB RGB -> 4:2:0 -> RGB on a 720p clip, no shift of the mean).
_TO_RGB = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# Chroma repeated, then averaged over the same pixels, is the same chroma: 4:2:0 -> RGB -> 4:2:0 is exact, where after
# the bilinear filter chroma with hard edges comes back at 44 dB.
_TO_RGB_AND_BACK = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_RETURNING = ("yuv420p", "yuvj420p", "yuv422p", "yuv420p10le", "yuv422p10le")  # whose planes PyAV copies
_FROM_RGB = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP

_DEEPER = {
    "yuv420p": "yuv420p14le",
    "yuv422p": "yuv422p14le",
    "yuv444p": "yuv444p14le",
    "yuv420p10le": "yuv420p16le",
    "yuv422p10le": "yuv422p16le",
    "yuv444p10le": "yuv444p16le",
}

# swscale's RGB of 16 bits for what has more than 8: a level of 255 is 256 of its steps. Of 4:2:0 its interleaved
# rgb48 comes out wrong (libswscale 9.5: by half the scale); the planar one is right.
_DEEP_RGB = "gbrp16le"
_WHITE = 255 * 256


def check_convertible(name: str, tags: ColourTags) -> None:
    """Refuse what would come out with wrong colours.

    Raises:
        UnreadableMediaError: HDR transfer (PQ, HLG), or a matrix that swscale does not know.
    """
    # Networks see 8 bits of SDR: a PQ picture taken for one would come out grey.
    if tags.transfer in HDR_TRANSFERS:
        raise UnreadableMediaError(
            f"{name} is an HDR clip ({HDR_TRANSFERS[tags.transfer]}), which is not supported",
            "convert it to SDR (BT.709) first, for example with ffmpeg's zscale and tonemap filters",
        )
    if tags.matrix not in _SWSCALE_MATRIX and tags.matrix not in _GUESSED:
        raise UnreadableMediaError(
            f"{name} uses a colour matrix (code {tags.matrix}) that cannot be converted faithfully",
            "convert it to BT.709 first, for example with ffmpeg's colorspace filter",
        )


def stream_matrix(tags: ColourTags, height: int) -> int:
    """The AVColorSpace code to convert with: the stream's, or the guess players make (BT.601 below 720 lines)."""
    if tags.matrix in _GUESSED:
        return BT709 if height >= 720 else BT601
    return tags.matrix


def matrix_tag(tags: ColourTags) -> int:
    """The matrix to write into the result's tags: the stream's own; unspecified where there is none for Y'CbCr."""
    return UNSPECIFIED if tags.matrix in _GUESSED else tags.matrix


def stream_range(tags: ColourTags, pixel_format: str) -> int:
    """1 (limited) or 2 (full): the stream's; where it says nothing, limited except for ``yuvj`` formats.

    A stream of RGB pictures is full by nature and says nothing of the Y'CbCr written for it: limited.
    """
    if VideoFormat(pixel_format).is_rgb:
        return LIMITED_RANGE
    if tags.range in (LIMITED_RANGE, FULL_RANGE):
        return tags.range
    return FULL_RANGE if pixel_format.startswith("yuvj") else LIMITED_RANGE


def subsampling(pixel_format: str) -> tuple[int, int]:
    """Width and height of a picture's colour where that of its brightness is 16: (8, 8) for 4:2:0."""
    components = VideoFormat(pixel_format, 16, 16).components
    return (components[1].width, components[1].height) if len(components) > 2 else (16, 16)


class PixelConverter:
    """RGB from a clip's decoded pictures and back, with one matrix and one range for the whole clip.

    Args:
        target_format: the pixel format in which the pictures are written back; where its colour is as coarse as the clip's,
            untouched pixels then come back as they were.  Without it pictures are converted for viewing.
    """

    def __init__(self, info: ClipInfo, target_format: str = "") -> None:
        self.info = info
        self.range = stream_range(info.colour, info.pixel_format)
        self._size = (info.height, info.width) if info.rotation in (90, 270) else (info.width, info.height)
        # An untagged portrait clip changes its number of lines when it is turned upright, and with it
        # the matrix that a player guesses: what is written follows the guess for the result.
        self._read_matrix = int(_SWSCALE_MATRIX[stream_matrix(info.colour, self._size[1])])
        self._write_matrix = int(_SWSCALE_MATRIX[stream_matrix(info.colour, info.height)])
        self._reader = VideoReformatter()
        self._writer = VideoReformatter()
        self._narrower = VideoReformatter()
        # A second thread for one 540p picture costs more than it saves on two cores.
        self._threads = min(4, max(1, (os.cpu_count() or 1) // 4))
        self._back = (
            bool(target_format)
            and info.pixel_format in _RETURNING
            and subsampling(target_format) == subsampling(info.pixel_format)
            and not (info.width % 2 or info.height % 2)
        )

    def to_rgb(self, picture: VideoFrame) -> UInt8Image:
        """A decoded picture as it is to be shown: H x W x 3, uint8, upright; more than 8 bits are rounded to 8.

        A picture whose size changes inside the stream is scaled to the clip's size.
        """
        if self.info.bits > 8:
            return self.to_deep_rgb(picture)[0]
        return self._upright(np.asarray(self._to_rgb(picture, "rgb24").to_ndarray(), np.uint8))

    def to_deep_rgb(self, picture: VideoFrame) -> tuple[UInt8Image, Int8Image]:
        """As :meth:`to_rgb`, with what the rounding to 8 bits took: H x W x 3, int8, in 256ths of a level.

        The two together hold 16 bits; code that draws on the first leaves the second as it is.
        """
        # swscale would round to 8 bits and forget the rest; here both parts are kept.
        deep = np.asarray(self._to_rgb(picture, _DEEP_RGB).to_ndarray(), np.uint16)
        if self.range == FULL_RANGE and not picture.format.is_rgb:
            # swscale shifts a full-range white of n bits up to 16 bits, and scales a limited-range one to 255 x 256.
            white = ((1 << self.info.bits) - 1) << (16 - self.info.bits)
            deep = np.minimum(deep * np.float32(_WHITE / white) + np.float32(0.5), 65535).astype(np.uint16)
        elif picture.format.is_rgb:
            deep = (deep * np.float32(_WHITE / 65535) + np.float32(0.5)).astype(np.uint16)
        rgb = np.minimum((deep.astype(np.uint32) + 128) >> 8, 255).astype(np.uint8)  # H W 3
        fine = np.clip(deep.astype(np.int32) - (rgb.astype(np.int32) << 8), -128, 127).astype(np.int8)
        return self._upright(rgb), self._upright(fine)

    def _to_rgb(self, picture: VideoFrame, pixel_format: str) -> VideoFrame:
        is_rgb = picture.format.is_rgb
        # In a picture of another size the filter scales more than the colour.
        back = self._back and (picture.width, picture.height, picture.format.name) == (
            *self._size,
            self.info.pixel_format,
        )
        if back:
            # A copy that doesn't say where between the pixels its colour lies: the reader would move the colour from
            # there, by a quarter of its pixels in most clips, and the writer doesn't move it back.
            picture = VideoFrame.from_ndarray(picture.to_ndarray(), format=picture.format.name)
        return self._reader.reformat(
            picture,
            width=self._size[0],
            height=self._size[1],
            format=pixel_format,
            src_colorspace=None if is_rgb else self._read_matrix,
            src_color_range=FULL_RANGE if is_rgb else self.range,
            dst_color_range=FULL_RANGE,
            interpolation=_TO_RGB_AND_BACK if back else _TO_RGB,
            threads=self._threads,
        )

    def _upright(self, values: NDArray[Any]) -> NDArray[Any]:
        # The display matrix mirrors first and turns then.
        if self.info.mirrored:
            values = values[:, ::-1]
        if self.info.rotation:
            values = np.rot90(values, -self.info.rotation // 90)
        return np.ascontiguousarray(values)

    def from_rgb(self, rgb: UInt8Image, pixel_format: str, fine: Int8Image | None = None) -> VideoFrame:
        """An upright RGB picture in the encoder's pixel format, with the clip's matrix and range.

        Args:
            rgb: H x W x 3.
            fine: H x W x 3, as of :meth:`to_deep_rgb`; without it the picture has the 8 bits of ``rgb``.
        """
        if fine is None:
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        else:
            deep = np.clip((rgb.astype(np.int32) << 8) + fine, 0, 65535).astype(np.uint16)
            picture = VideoFrame.from_ndarray(deep, format=_DEEP_RGB)
        if self.range == FULL_RANGE and pixel_format in _DEEPER:
            # Written straight to so few bits, swscale truncates full-range chroma, which turns the picture yellow.
            return self._narrower.reformat(
                self._from_rgb(picture, _DEEPER[pixel_format]),
                format=pixel_format,
                src_color_range=FULL_RANGE,
                dst_color_range=FULL_RANGE,
                interpolation=_FROM_RGB,
                threads=self._threads,
            )
        return self._from_rgb(picture, pixel_format)

    def _from_rgb(self, picture: VideoFrame, pixel_format: str) -> VideoFrame:
        return self._writer.reformat(
            picture,
            format=pixel_format,
            src_color_range=FULL_RANGE,
            dst_colorspace=self._write_matrix,
            dst_color_range=self.range,
            interpolation=_FROM_RGB,
            threads=self._threads,
        )
