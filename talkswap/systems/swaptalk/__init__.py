"""SwapTalk: a face swap and a lip sync that edit one latent space (arXiv 2405.05636).

This file is all that the rest of the tool reads of the system; the networks and the stages are imported on use.
"""

from dataclasses import dataclass
from typing import Literal

from talkswap.checkpoints.networks import NetworkDescription
from talkswap.systems.description import EvaluationRow, Maker, PresetNeeds, SystemDescription, option
from talkswap.train.stages import StageDescription

_HERE = "talkswap.systems.swaptalk"
_TRAINING = f"{_HERE}.training"


@dataclass(frozen=True)
class SwapTalkOptions:
    """What a render with SwapTalk can choose beside what every render can."""

    mode: Literal["cross", "self"] = option(
        "cross", "cross: any voice. self: the target's own voice, the first frame as reference."
    )
    order: Literal["swap-sync", "sync-swap"] = option("swap-sync", "Which of the two latent edits comes first.")
    networks: Literal["auto", "none", "refine", "alone"] = option(
        "auto",
        "What the networks do. none: the painted guide is the result. refine: they work on the guide. alone: they work "
        "on the target's own face, as in the paper. auto: what scores best, none with the compact preset, alone with "
        "paper.",
    )


SYSTEM = SystemDescription(
    name="swaptalk",
    title="SwapTalk",
    paper="SwapTalk: Audio-Driven Talking Face Generation with One-Shot Customization in Latent Space, arXiv 2405.05636",
    system=f"{_HERE}.system:SwapTalk",
    options=SwapTalkOptions,
    networks=(
        NetworkDescription(
            "vqgan",
            "swaptalk",
            f"{_HERE}.vqgan:VQGAN",
            f"{_HERE}.vqgan:VQGANConfig",
            "the latent space of faces",
            "vqgan",
        ),
        NetworkDescription(
            "face_swap",
            "swaptalk",
            f"{_HERE}.face_swap:FaceSwap",
            f"{_HERE}.face_swap:FaceSwapConfig",
            "gives the target the source's face",
            "face-swap",
        ),
        NetworkDescription(
            "lip_sync",
            "swaptalk",
            f"{_HERE}.lip_sync:LipSync",
            f"{_HERE}.lip_sync:LipSyncConfig",
            "moves the lips with the voice",
            "lip-sync",
            paper_settings={"speech": "hubert"},
        ),
        NetworkDescription(
            "sync_expert",
            "swaptalk",
            f"{_HERE}.sync_expert:SyncExpert",
            f"{_HERE}.sync_expert:SyncExpertConfig",
            "supervises training; a render does not need it",
            "sync-expert",
            presets=(),
        ),
    ),
    stages=(
        StageDescription("vqgan", f"{_TRAINING}.vqgan", "VQGANStageConfig", "VQGANStage"),
        StageDescription("face-swap", f"{_TRAINING}.face_swap", "FaceSwapStageConfig", "FaceSwapStage"),
        StageDescription("sync-expert", f"{_TRAINING}.sync_expert", "SyncExpertStageConfig", "SyncExpertStage"),
        StageDescription("lip-sync", f"{_TRAINING}.lip_sync", "LipSyncStageConfig", "LipSyncStage"),
        StageDescription("joint", f"{_TRAINING}.joint", "JointStageConfig", "JointStage"),
    ),
    presets={
        "compact": PresetNeeds(),
        "paper": PresetNeeds(
            downloads=("hubert-config", "hubert-preprocessor", "hubert", "buffalo_l"),
            packages=("transformers", "diffusers", "insightface", "onnxruntime"),
        ),
    },
    makers=(
        Maker(
            "codes",
            "Encode prepared clips with a VQGAN.",
            f"{_TRAINING}.makers:CodesOptions",
            f"{_TRAINING}.makers:encode_codes",
        ),
        Maker(
            "pairs",
            "Make the face swap's training samples.",
            f"{_TRAINING}.makers:PairsOptions",
            f"{_TRAINING}.makers:draw_pairs",
        ),
    ),
    bench=f"{_HERE}.bench:random_workload",
    rows=(
        EvaluationRow(
            "swaptalk-sync-swap",
            "SwapTalk, sync-swap",
            "lip sync, then face swap, in the latent space",
            {"order": "sync-swap", "networks": "alone"},
            {"mode": "self"},
        ),
        EvaluationRow(
            "swaptalk",
            "SwapTalk",
            "face swap, then lip sync, in the latent space: the paper's order",
            {"order": "swap-sync", "networks": "alone"},
            {"mode": "self"},
        ),
        EvaluationRow(
            "guide",
            "Guide alone",
            "the photo's skin on the mesh that the voice moves, at the clip's own resolution; no network after it",
            {"networks": "none"},
            network="animation/sync_former",
        ),
        EvaluationRow(
            "swaptalk-guide",
            "SwapTalk on the guide",
            "face swap, then lip sync, in the latent space of the painted guide",
            {"networks": "refine"},
            network="animation/sync_former",
        ),
    ),
    published=f"{_HERE}.tables:PUBLISHED",
    ablations=f"{_HERE}.tables:ABLATIONS",
)
