"""Draw a training curve from ``curve.jsonl`` without a plotting package."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SKIPPED = {"step", "minutes", "rate", "waiting"}


def draw_curve(source: Path, target: Path, width: int = 900, height: int = 140) -> None:
    """One panel per logged figure, each scaled to its own range; nothing is drawn from fewer than two rows."""
    rows = [json.loads(line) for line in source.read_text().splitlines()] if source.is_file() else []
    keys = [k for k in (rows[-1] if rows else {}) if k not in SKIPPED]
    if len(rows) < 2 or not keys:
        return
    panels = []
    for key in keys:
        panel = np.full((height, width, 3), 255, np.uint8)
        points = np.array([(r["step"], r[key]) for r in rows if key in r], float)
        low, high = np.percentile(points[:, 1], [0, 98])
        span = max(high - low, 1e-9)
        x = 10 + (points[:, 0] - points[0, 0]) / max(np.ptp(points[:, 0]), 1) * (width - 20)
        y = height - 10 - np.clip((points[:, 1] - low) / span, 0, 1) * (height - 40)
        cv2.polylines(panel, [np.stack([x, y], 1).astype(np.int32)], False, (180, 80, 20), 1, cv2.LINE_AA)
        label = f"{key}: last {points[-1, 1]:.4g}, lowest {low:.4g}, step {int(points[-1, 0])}"
        cv2.putText(panel, label, (10, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    cv2.imwrite(str(target), np.concatenate(panels))
