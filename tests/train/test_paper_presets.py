"""The paper's numbers as presets, and each of its ablations by settings alone, resolved by the real command.

Sections, tables and equations are those of the SwapTalk paper.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from talkswap.cli import main
from talkswap.errors import InputMissingError
from talkswap.systems.registry import find_stage
from talkswap.systems.swaptalk.training.lip_sync import mouth_weight
from talkswap.train.losses import identity_distance
from talkswap.train.stages import stage_config

EIGHT_TIMES = (
    "network.widths=[128,128,256,512]",
    "network.encoder_blocks=[2,2,2,2]",
    "network.decoder_blocks=[3,3,3,3]",
)
ADAM = {"loop.betas": [0.9, 0.999], "loop.weight_decay": 0.0, "loop.final_rate": 1.0, "loop.warmup": 1}  # IV-B


def resolved(stage: str, capsys: pytest.CaptureFixture[str], *settings: str) -> dict[str, Any]:
    """What ``talkswap train STAGE --preset paper --set … --dry-run`` prints."""
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["train", stage, "--preset", "paper", "--dry-run", *arguments]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def read(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


PAPER: dict[str, dict[str, Any]] = {
    "vqgan": {
        **ADAM,
        "loop.batch": 12,  # IV-B
        "loop.learning_rate": 4.5e-6,  # IV-B
        "loop.discriminator_rate": 4.5e-6,  # IV-B: one rate for this training
        "network.size": 320,  # IV-D a: "320 x 320 face image by a factor of 16, ... into a 20 x 20 VQ-embedding"
        "network.code_width": 256,  # SPEC: 256 x 20 x 20
        "network.codes": 2048,  # SPEC: each of C_U and C_B
        "pixel": 1.0,  # IV-B: lambda_rec, eq. 3
        "perceptual": 1.0,  # the same, second term
        "perceptual_sum": True,  # eq. 3: a sum over layers
        "commitment": 1.0,  # IV-B: lambda_VQ, eq. 4, first term
        "codebook": 1.0,  # eq. 4, second term
        "identity": 1.0,  # IV-B: lambda_id, eq. 5
        "identity_l1": True,  # eq. 5
        "adversarial": 1.0,  # eq. 6
        "adversarial_start": 0,  # none is named
        "gradient": 0.0,  # no such term in eq. 3
        "unquantized": 0.0,  # eq. 2: the decoder is given codes
        "continuous": 0,
        "network.moving_codes": False,  # eq. 4: codes learn by its second term
    },
    "face-swap": {
        **ADAM,
        "loop.batch": 8,  # IV-B
        "loop.learning_rate": 5e-5,  # IV-B
        "code": 1.0,  # eq. 8
        "code_outside": 1.0,
        "identity_source": 1.0,  # IV-B: lambda_src, eq. 9
        "identity_result": 1.0,  # IV-B: lambda_res
        "identity_l1": True,
        "decoded_share": 1.0,  # eq. 9: of every sample
        "quantized": 1.0,  # III-B: S_VQ, T_VQ
        "truth_raw": False,  # eq. 8: Res_VQ
        "pixel": 0.0,  # not in eq. 10
        "gradient": 0.0,
        "perceptual": 0.0,
        "network.backbone": "transformer",  # III-B, eq. 7
        "network.self_attention": False,
        "network.guide": "none",
        "network.identity": 0,
        "network.grid": 20,  # table II: f = 16
    },
    "sync-expert": {"network.grid": 20, "network.frames": 5, "network.margin": 0, "noise": 0.0, "lost": 0.0},
    "lip-sync": {
        **ADAM,
        "loop.batch": 20,  # IV-B
        "loop.learning_rate": 1e-4,  # IV-B
        "code": 1.0,  # eq. 16
        "elsewhere": 1.0,  # eq. 14: all cells alike
        "sync": 0.3,  # IV-B: lambda_sync, eq. 16
        "far": 1.0,  # III-C: "different frames of the same video"
        "square": 0.0,  # not in eq. 16
        "entropy": 0.0,
        "probe": 0.0,
        "pixel": 0.0,
        "network.backbone": "ldm-unet",  # eq. 12
        "network.speech": "hubert",  # III-C
        "network.speech_width": 768,
        "network.quantize": False,
    },
}


@pytest.mark.parametrize("stage", PAPER)
def test_the_preset_holds_the_papers_numbers(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = resolved(stage, capsys)["config"]
    assert {key: read(config, key) for key in PAPER[stage]} == PAPER[stage]


ABLATIONS = {
    # name: stage, settings
    "table II, f = 8": ("vqgan", EIGHT_TIMES),
    "table II, f = 8, face swap": ("face-swap", ("network.grid=40",)),
    "table III, f = 8, lip sync": ("lip-sync", ("network.grid=40",)),
    "table III, f = 8, its expert": ("sync-expert", ("network.grid=40",)),
    "table IV, no identity losses": ("face-swap", ("identity_source=0", "identity_result=0")),
    "table IV, identity to the source only": ("face-swap", ("identity_result=0",)),
    "table IV, UNet": ("face-swap", ("network.backbone=unet",)),
    "table IV, UNet of latent diffusion": ("face-swap", ("network.backbone=ldm-unet",)),
    "table V, no expert": ("lip-sync", ("sync=0",)),
    "table V, UNet": ("lip-sync", ("network.backbone=unet",)),
    "table V, DiT": ("lip-sync", ("network.backbone=dit",)),
    "eq. 6 without the GAN": ("vqgan", ("adversarial=0",)),
    "eq. 3 without VGG": ("vqgan", ("perceptual=0",)),
    "eq. 6 without identity": ("vqgan", ("identity=0",)),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_matter_of_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage, settings = ABLATIONS[name]
    made = resolved(stage, capsys, *settings)
    for setting in settings:
        key, _, value = setting.partition("=")
        asked = value if key == "network.backbone" else json.loads(value)
        assert read(made["config"], key) == asked
    untouched = dict(setting.split("=") for setting in settings).keys()
    assert {k: read(made["config"], k) for k in PAPER[stage] if k not in untouched} == {
        k: v for k, v in PAPER[stage].items() if k not in untouched
    }, "an ablation changes one thing"
    assert made["parameters"] and made["flops"]["step"] > 0
    assert ("discriminator" in made["parameters"]) == (stage == "vqgan" and "adversarial=0" not in settings)


def test_the_latent_of_table_ii_is_20_or_40_cells_wide() -> None:
    plain = stage_config(find_stage("vqgan"), {}, "paper").network
    eight = stage_config(
        find_stage("vqgan"), {k: json.loads(v) for k, v in (s.split("=") for s in EIGHT_TIMES)}, "paper"
    ).network
    assert (plain.downsampling, plain.grid) == (16, 20) and (eight.downsampling, eight.grid) == (8, 40)


def test_backbones_differ() -> None:
    """The settings reach the networks: each row of tables IV and V is another one."""
    for stage, kinds in (("face-swap", ("transformer", "unet", "ldm-unet")), ("lip-sync", ("ldm-unet", "unet", "dit"))):
        small = {"network.width": 64, "network.blocks": 1} if stage == "face-swap" else {
            "network.widths": [32, 32, 32, 32], "network.blocks": [1, 1, 1, 1], "network.depth": 1
        }  # fmt: skip
        from importlib import import_module

        keys = []
        for kind in kinds:
            config = stage_config(find_stage(stage), {**small, "network.backbone": kind}, "paper")
            (network,) = import_module(find_stage(stage).module).networks(config).values()
            keys.append(frozenset(network.state_dict()))
        assert len(set(keys)) == len(kinds)


def test_eq_14_weighs_all_cells_alike() -> None:
    paper = mouth_weight(stage_config(find_stage("lip-sync"), {}, "paper"))
    compact = mouth_weight(stage_config(find_stage("lip-sync"), {}))
    assert torch.equal(paper, torch.ones(10, 20))
    assert compact.mean() == pytest.approx(1, abs=1e-5) and compact.max() > 5 * compact.min()


def test_the_identity_distance_of_eq_5_is_an_l1() -> None:
    a = torch.nn.functional.normalize(torch.randn(3, 64), dim=1)
    b = torch.nn.functional.normalize(torch.randn(3, 64), dim=1)
    assert float(identity_distance(a, a, True)) == 0
    assert float(identity_distance(a, b, True)) == pytest.approx(float((8 * a - 8 * b).abs().mean()), rel=1e-5)
    assert float(identity_distance(a, b)) == pytest.approx(float(1 - (a * b).sum(1).mean()))


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("vqgan", {}, "no perceptual network"),
        ("vqgan", {"perceptual": 0}, "no identity network"),
    ],
)
def test_a_term_whose_teacher_is_missing_is_not_left_out_silently(
    stage: str, settings: dict[str, Any], said: str
) -> None:
    from talkswap.systems.swaptalk.training.vqgan import VQGANStage

    tiny = {
        "network.widths": [8, 8, 8], "network.encoder_blocks": [0, 0, 0], "network.decoder_blocks": [0, 0, 0],
        "network.patch": 4, "network.encoder_attention": 0, "network.decoder_attention": 0,
    }  # fmt: skip
    with pytest.raises(InputMissingError, match=said):
        VQGANStage(stage_config(find_stage(stage), {**tiny, **settings}, "paper"))
