"""The papers' own figures, to stand beside ours: facts only, each with its table.

ID Retrieve and Consistency are in percent there, and so they are here. Where a paper gives no figure there is none.
"""

from __future__ import annotations

from talkswap.evaluation.results import PublishedRow

_SWAPTALK, _WAVSYNCSWAP = "SwapTalk", "WavSyncSwap"

# key, label, FID, SSIM, CPBD, LMD (of the mouth, so LMD-m here), LSE-C, ID Retrieve, Consistency
_Row = tuple[str, str, float | None, float | None, float, float | None, float, float | None, float | None]
_TABLE_ONE_COLUMNS = ("fid", "ssim", "cpbd", "lmd_m", "lse_c", "id_retrieve", "consistency")
_TABLE_ONE: dict[str, tuple[_Row, ...]] = {
    "self": (
        ("ground-truth", "Ground Truth", None, None, 0.536, None, 8.37, None, None),
        ("wav2lip", "Wav2Lip", 28.5, 0.813, 0.425, 1.959, 9.50, None, None),
        ("wav2lip-restore", "Wav2Lip-Restore", 15.1, 0.904, 0.535, 1.624, 9.04, None, None),
        ("cascade-sync-swap", "Sync-Swap", 12.4, 0.904, 0.484, 1.481, 7.49, 82.9, 76.00),
        ("cascade-sync-swap-restore", "Sync-Swap-Restore", 12.7, 0.885, 0.539, 1.483, 7.25, 81.4, 75.57),
        ("cascade-swap-sync", "Swap-Sync", 11.7, 0.906, 0.482, 1.384, 8.89, 80.3, 74.89),
        ("cascade-swap-restore-sync", "Swap-Restore-Sync", 12.5, 0.890, 0.533, 1.386, 8.84, 79.3, 74.38),
        ("wavsyncswap", "WAVSYNCSWAP", 49.9, 0.738, 0.470, 3.161, 9.09, 85.7, 64.17),
        ("swaptalk", "SwapTalk", 11.6, 0.908, 0.521, 1.221, 9.08, 87.8, 78.00),
        ("swaptalk-extra-data", "SwapTalk (Extra Data)", 11.1, 0.910, 0.530, 1.139, 9.25, 92.3, 81.88),
    ),
    "cross": (
        ("wav2lip", "Wav2Lip", 27.4, 0.811, 0.417, None, 7.87, None, None),
        ("wav2lip-restore", "Wav2Lip-Restore", 14.6, 0.877, 0.533, None, 7.63, None, None),
        ("cascade-sync-swap", "Sync-Swap", 12.7, 0.899, 0.483, None, 7.52, 84.2, 77.83),
        ("cascade-sync-swap-restore", "Sync-Swap-Restore", 13.0, 0.885, 0.528, None, 7.24, 83.8, 77.44),
        ("cascade-swap-sync", "Swap-Sync", 11.6, 0.900, 0.484, None, 8.62, 82.6, 76.63),
        ("cascade-swap-restore-sync", "Swap-Restore-Sync", 11.8, 0.888, 0.521, None, 8.57, 80.4, 75.99),
        ("swaptalk", "SwapTalk", 11.0, 0.905, 0.524, None, 8.94, 87.6, 80.19),
        ("swaptalk-extra-data", "SwapTalk (Extra Data)", 10.8, 0.907, 0.526, None, 8.99, 93.5, 82.57),
    ),
}
_NOTES = {"wavsyncswap": "SSIM and Consistency were measured on that paper's demo video"}


def _table_one() -> tuple[PublishedRow, ...]:
    rows = []
    for setting, listed in _TABLE_ONE.items():
        for key, label, *figures in listed:
            values = {c: v for c, v in zip(_TABLE_ONE_COLUMNS, figures, strict=True) if v is not None}
            rows.append(PublishedRow(_SWAPTALK, "I", setting, key, label, values, note=_NOTES.get(key, "")))
    return tuple(rows)


def _compression(
    table: str, columns: tuple[str, ...], eight: tuple[float, ...], sixteen: tuple[float, ...]
) -> tuple[PublishedRow, ...]:
    return tuple(
        PublishedRow(
            _SWAPTALK, table, "", f"f{rate}", f"{rate}x", dict(zip(columns, figures, strict=True)),
            {"compression": f"{rate}x"},
        )
        for rate, figures in ((8, eight), (16, sixteen))
    )  # fmt: skip


def _choice(table: str, key: str, label: str, choices: dict[str, str], **values: float) -> PublishedRow:
    return PublishedRow(_SWAPTALK, table, "", key, label, values, choices)


def _swap(key: str, source: bool, result: bool, backbone: str, retrieve: float, fid: float) -> PublishedRow:
    yes = {True: "yes", False: "no"}
    choices = {"identity_source": yes[source], "identity_result": yes[result], "backbone": backbone}
    return _choice("IV", key, backbone, choices, id_retrieve=retrieve, fid=fid)


def _sync(key: str, expert: bool, backbone: str, fid: float, ssim: float, lmd: float) -> PublishedRow:
    choices = {"expert": "yes" if expert else "no", "backbone": backbone}
    return _choice("V", key, backbone, choices, fid=fid, ssim=ssim, lmd_m=lmd)


ABLATIONS: dict[str, tuple[PublishedRow, ...]] = {
    "II": _compression("II", ("id_retrieve", "fid"), (85.63, 15.6), (94.29, 9.5)),
    "III": _compression("III", ("fid", "ssim", "lmd_m"), (8.3, 0.841, 1.116), (4.2, 0.942, 1.008)),
    "IV": (
        _swap("no-identity", False, False, "transformer", 72.3, 16.0),
        _swap("identity-source", True, False, "transformer", 93.6, 15.5),
        _swap("transformer", True, True, "transformer", 94.3, 9.5),
        _swap("unet", True, True, "unet", 80.1, 15.7),
        _swap("ldm-unet", True, True, "ldm-unet", 84.6, 12.3),
    ),
    "V": (
        _sync("no-expert", False, "ldm-unet", 4.3, 0.940, 1.381),
        _sync("ldm-unet", True, "ldm-unet", 4.2, 0.942, 1.009),
        _sync("unet", True, "unet", 5.5, 0.938, 1.252),
        _sync("dit", True, "dit", 6.1, 0.936, 1.160),
    ),
    "VI": (
        _choice(
            "VI", "swaptalk-sync-swap", "SyncSwap-VQ", {"order": "sync-swap"},
            fid=11.9, lse_c=7.62, id_retrieve=88.1, consistency=80.83,
        ),
        _choice(
            "VI", "swaptalk", "SwapSync-VQ", {"order": "swap-sync"},
            fid=11.0, lse_c=8.94, id_retrieve=87.6, consistency=80.19,
        ),
    ),
}  # fmt: skip
"""Tables II to VI of the SwapTalk paper, by table.

In table IV the first row's mark stands under the first identity loss in the text that we have, where the paper's own
words describe a row without either; it is entered as those words say.
"""

TABLE_ONE = _table_one()
"""Table I of the SwapTalk paper."""

WAVSYNCSWAP: tuple[PublishedRow, ...] = (
    PublishedRow(_WAVSYNCSWAP, "1, 2", "self", "ground-truth", "Ground Truth", {"lse_d": 7.19, "lse_c": 7.74, "cpbd": 0.427}),
    PublishedRow(
        _WAVSYNCSWAP, "1, 2", "self", "wav2lip", "Wav2Lip",
        {"lse_d": 6.02, "lse_c": 8.65, "lmd": 2.648, "lmd_m": 2.721, "fid": 53.9, "cpbd": 0.353},
    ),
    PublishedRow(
        _WAVSYNCSWAP, "1, 2", "self", "wav2lip-simswap", "Cascade (Wav2Lip, SimSwap)",
        {"lse_d": 8.14, "lse_c": 6.02, "lmd": 3.361, "lmd_m": 3.114, "fid": 74.8, "cpbd": 0.340, "id_retrieve": 100.0},
    ),
    PublishedRow(
        _WAVSYNCSWAP, "1, 2", "self", "wavsyncswap", "Proposed",
        {"lse_d": 5.88, "lse_c": 9.09, "lmd": 3.161, "lmd_m": 2.984, "fid": 49.9, "cpbd": 0.470, "id_retrieve": 85.7},
    ),
)  # fmt: skip
"""Tables 1 and 2 of the WavSyncSwap paper; its test set and crops are its own."""
