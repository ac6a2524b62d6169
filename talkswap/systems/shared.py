"""What every system shares: the networks of the rooms ``faces``, ``voice`` and ``animation``, and the stages that train them."""

from talkswap.checkpoints.networks import NetworkDescription
from talkswap.train.stages import StageDescription

NETWORKS = (
    NetworkDescription(
        "detector",
        "faces",
        "talkswap.faces.detector:DetectorNetwork",
        "talkswap.faces.detector:DetectorConfig",
        "finds faces",
        "faces",
        exact=True,
        presets=("compact",),  # the paper preset's analyser is insightface
    ),
    NetworkDescription(
        "landmarks",
        "faces",
        "talkswap.faces.landmarks:LandmarkNetwork",
        "talkswap.faces.landmarks:LandmarkConfig",
        "478 dense points of a face",
        "faces",
        exact=True,
        presets=("compact",),
    ),
    NetworkDescription(
        "identity",
        "faces",
        "talkswap.faces.identity:IdentityNetwork",
        "talkswap.faces.identity:IdentityConfig",
        "who a face is, as a vector",
        "identity",
        exact=True,
    ),
    NetworkDescription(
        "occlusion",
        "faces",
        "talkswap.faces.occlusion:OcclusionNetwork",
        "talkswap.faces.occlusion:OcclusionConfig",
        "what is in front of a face; without it a render paints over that",
        "occlusion",
        presets=(),
    ),
    NetworkDescription(
        "speech_encoder",
        "voice",
        "talkswap.voice.speech_encoder:SpeechEncoder",
        "talkswap.voice.speech_encoder:SpeechEncoderConfig",
        "mel to mouth shape; training cuts clips by it",
        "speech-encoder",
        presets=(),
    ),
    NetworkDescription(
        "sync_former",
        "animation",
        "talkswap.animation.sync_former:SyncFormer",
        "talkswap.animation.sync_former:SyncFormerConfig",
        "a voice and a speaking style to the motion of a face's mesh",
        "sync-former",
        exact=True,
        presets=(),  # a preset without it has no mesh motion
    ),
)
"""In the order of the model card."""

ROOMS = ("faces", "voice", "animation")
"""Folders of a preset that belong to every system."""

STAGES = (
    StageDescription("faces", "talkswap.train.shared.faces", "FacesStageConfig", "FacesStage"),
    StageDescription("identity", "talkswap.train.shared.identity", "IdentityStageConfig", "IdentityStage"),
    StageDescription("occlusion", "talkswap.train.shared.occlusion", "OcclusionStageConfig", "OcclusionStage"),
    StageDescription(
        "speech-encoder", "talkswap.train.shared.speech_encoder", "SpeechEncoderStageConfig", "SpeechEncoderStage"
    ),
    StageDescription("sync-former", "talkswap.train.shared.sync_former", "SyncFormerStageConfig", "SyncFormerStage"),
)
"""In the order in which they are trained."""
