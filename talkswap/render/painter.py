"""The guide of each frame: one person's face as geometry alone paints it, on the mesh that the voice moves.

    voice -> mesh motion -> spoken mesh -> own skin moved, photo's skin laid on, teeth shown -> guide

What a voice does to a person's mesh is computed once, when the painter begins; each frame asks for it at its own time.
"""

from fractions import Fraction

from talkswap.animation.motion import MeshMotion, mesh_motion, usual_style
from talkswap.animation.mouth import InnerMouth
from talkswap.animation.portrait import Portrait
from talkswap.animation.spoken import SpeechSpace
from talkswap.animation.sync_former import SyncFormer
from talkswap.animation.talking_face import Painted, TalkingFace
from talkswap.faces.geometry import transform_points, warp_crop
from talkswap.faces.guide import FaceGuide
from talkswap.types import AlignedFace, FloatArray, GuideCrop, UInt8Image, Voice
from talkswap.voice.activity import SpeechGate
from talkswap.voice.features import MelFeatures, listen

COMPONENTS = 24  # leading components of the motion network in which a frame's own mouth is found; the rest is noise


class VoiceMotion:
    """What a voice does to any person's mesh; the voice itself is heard once.

    Args:
        network: in evaluation mode.
        voice: 16 kHz.
    """

    def __init__(self, network: SyncFormer, voice: Voice) -> None:
        self.network = network
        # Eased into silence where nobody speaks, so that breath and music leave the mouth at rest.
        self.features = listen(voice, MelFeatures(), 1).features if network.config.audio == "mel" else voice.samples

        components = network.basis[:COMPONENTS].detach().float().cpu().numpy()
        self.space = SpeechSpace(components.reshape(len(components), -1, 3))  # what speech can do to a mesh

    def of(self, style: FloatArray) -> MeshMotion:
        """The motion in the style of some displacements (S 478 3); in a usual one where there are none."""
        return mesh_motion(self.network, self.features, style if len(style) else usual_style(self.network))


class Painter:
    """Paints the guides of one person; no call depends on another.

    Args:
        portrait: the person.
        skin: the photo's; None without a swap.
        voice: what moves the person's mesh; None where the lips stay the target's.
        gate: how far the lips follow the voice at a time; None = wholly.
        strength: of the voice's movement, 0 to 1.5.
    """

    def __init__(
        self,
        portrait: Portrait,
        skin: FaceGuide | None,
        voice: VoiceMotion | None,
        gate: SpeechGate | None,
        strength: float,
    ) -> None:
        self.gate = gate
        if voice is None:
            self.motion = None
            self.face = TalkingFace(None, None, None, skin, strength)
        else:
            self.motion = voice.of(portrait.style)
            self.face = TalkingFace(
                portrait.template, voice.space, InnerMouth(portrait.mouths), skin, strength, portrait.rest
            )

    def paint(self, rgb: UInt8Image, landmarks: FloatArray, time: Fraction) -> Painted | None:
        """The guide of a frame.

        Args:
            rgb: H W 3, not changed.
            landmarks: 478 3, px.
            time: of the frame, seconds on the voice's clock.

        Returns:
            None where nothing changes.
        """
        displacement = None if self.motion is None else self.motion.at([time])[0]
        gate = 1.0 if self.gate is None else float(self.gate.at([time])[0])
        return self.face.paint(rgb, landmarks, displacement, gate)


def guide_crop(rgb: UInt8Image, painted: Painted, face: AlignedFace) -> GuideCrop:
    """A painted face cut out as its frame's crop is.

    Args:
        rgb: H W 3, the frame; it holds the guide for a moment, and is as it was at the end.
        painted: what changes in it.
        face: the same frame's, from before.
    """
    # A copy of a 4K frame would cost more than painting it.
    below = rgb[painted.patch.place].copy()
    rgb[painted.patch.place] = painted.patch.rgb
    crop = warp_crop(rgb, face.affine, face.crop.shape[0])
    rgb[painted.patch.place] = below
    return GuideCrop(crop, transform_points(face.affine, painted.landmarks))
