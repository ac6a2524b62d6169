"""A stage small enough to train in every test: a line, with dropout and a discriminator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from talkswap.train.stage import Batch, LoopConfig, Stage, step_seed


@dataclass(frozen=True)
class LineConfig:
    loop: LoopConfig = LoopConfig(
        steps=24, batch=16, learning_rate=0.05, warmup=4, ema=0.9, precision="float32", device="cpu", log_every=1,
        sample_every=100, workers=0,
    )  # fmt: skip
    slope: float = 3.0
    dropout: float = 0.3


class LineStage(Stage):
    """Fits a line with dropout, against a discriminator, and follows the data with a running mean: every kind of
    state is in play.
    """

    name = "line"

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        torch.manual_seed(config.loop.seed)
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(config.dropout), nn.Linear(8, 1))
        self.network.register_buffer("centre", torch.zeros(1))  # as codebooks do, it moves without a gradient
        self.discriminator = nn.Linear(1, 1)
        self.seen: list[Tensor] = []

    def batch(self, step: int) -> Batch:
        """Samples by their own number, so that batches of another size hold the same samples."""
        size, seed = self.config.loop.batch, self.config.loop.seed
        numbers = range(step * size, (step + 1) * size)
        x = torch.stack([torch.randn(1, generator=torch.Generator().manual_seed(step_seed(seed, n))) for n in numbers])
        return {"x": x, "y": self.config.slope * x + 1}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        self.made = self.network(batch["x"])
        self.seen.append(batch["x"])
        assert self.discriminator is not None
        error = (self.made - batch["y"]).abs().mean()
        return error + 0.01 * self.discriminator(self.made).mean(), {"error": error.detach()}

    def discriminator_loss(self, batch: Batch, step: int) -> Tensor | None:
        assert self.discriminator is not None
        return self.discriminator(self.made.detach()).square().mean()

    def after_step(self, step: int) -> None:
        every = torch.cat([self.gathered(x) for x in self.seen])
        self.seen = []
        noise = torch.randn(1).to(every.device)  # what a revived code would be
        self.network.centre.lerp_(every.mean(0) + 0.1 * noise, 0.1)  # type: ignore[operator, union-attr]

    def score(self) -> dict[str, float]:
        device = next(self.network.parameters()).device
        one, zero = (self.network(torch.full((1, 1), value, device=device)) for value in (1.0, 0.0))
        return {"slope": float((one - zero).item())}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "done").touch()


def rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run's curve."""
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


if __name__ == "__main__":  # one of several processes that train together; see test_processes.py
    import os
    import signal
    import sys
    from dataclasses import replace

    from talkswap.train.loop import Trainer
    from talkswap.train.processes import Processes
    from talkswap.train.stage import share_config

    run, stop_at = Path(sys.argv[1]), int(sys.argv[2])

    class Stopped(LineStage):
        """Rank 1 alone is told to end, in the middle of a step."""

        def after_step(self, step: int) -> None:
            super().after_step(step)
            if step == stop_at and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)

    config = replace(LineConfig(), dropout=0.0)
    together = Processes("cpu", "float32")
    trainer = Trainer(Stopped(share_config(config, together.count)), config.loop, run, together)
    trainer.resume(print)
    trainer.train(print)
    together.end()
