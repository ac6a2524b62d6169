"""The cascades that the SwapTalk paper compares itself with: other people's published networks, one after the other.

Each order of steps is a system of its own, so that a render and a row of the tables can name it.
"""

from collections.abc import Mapping

from talkswap.systems.description import EvaluationRow, PresetNeeds, SystemDescription

CASCADES: Mapping[str, tuple[str, ...]] = {
    "wav2lip": ("sync",),
    "wav2lip-restore": ("sync", "restore"),
    "cascade-sync-swap": ("sync", "swap"),
    "cascade-sync-swap-restore": ("sync", "swap", "restore"),
    "cascade-swap-sync": ("swap", "sync"),
    "cascade-swap-restore-sync": ("swap", "restore", "sync"),
}
"""Name -> steps in order."""


def _describe(name: str, label: str, about: str) -> SystemDescription:
    return SystemDescription(
        name=name,
        title=label,
        paper="the methods that table I of SwapTalk (arXiv 2405.05636) compares with",
        system="talkswap.systems.cascade.system:Cascade",
        presets={
            "compact": PresetNeeds(),
            "paper": PresetNeeds(downloads=("buffalo_l",), packages=("insightface", "onnxruntime")),
        },
        rows=(
            EvaluationRow(
                name,
                label,
                about,
                swaps="swap" in CASCADES[name],
                note="The cascades' lip sync is Wav2Lip's; in the paper it is the paper's own",
            ),
        ),
        missing="talkswap.systems.cascade.parts:missing_parts",
        proxies={"inswapper": "talkswap.systems.cascade.networks:InswapperProxy"} if "swap" in CASCADES[name] else {},
        hashes="talkswap.systems.cascade.parts:part_hashes",
    )


SYSTEMS = (
    _describe("wav2lip", "Wav2Lip", "lips by Wav2Lip, the face stays"),
    _describe("wav2lip-restore", "Wav2Lip-Restore", "lips by Wav2Lip, then GFPGAN; the face stays"),
    _describe("cascade-sync-swap", "Sync-Swap", "lip sync, then Roop's face swap"),
    _describe("cascade-sync-swap-restore", "Sync-Swap-Restore", "lip sync, then Roop's face swap, then GFPGAN"),
    _describe("cascade-swap-sync", "Swap-Sync", "Roop's face swap, then lip sync"),
    _describe("cascade-swap-restore-sync", "Swap-Restore-Sync", "Roop's face swap, then GFPGAN, then lip sync"),
)
