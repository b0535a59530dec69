"""Frames as the two published programs bring them to a backbone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import dinobench
from dinobench.context import LocalContext
from dinobench.data.embedded import shape_videos
from dinobench.errors import BrokenImage
from dinobench.features.frames import FrameInput, frame_grids
from dinobench.protocols.davis import profiles

DINO, DINOV3 = (profiles[name].view() for name in ("dino2021", "dinov3"))


def test_frames_are_resized_and_normalised_as_released():
    frame = np.random.default_rng(0).integers(0, 256, (480, 854, 3), dtype=np.uint8)
    x = DINO(frame)
    assert x.shape == (3, 480, 832) and x.dtype == torch.float32
    resized = cv2.resize(np.ascontiguousarray(frame[..., ::-1]), (832, 480))[..., ::-1].astype(np.float64) / 255
    wanted = (resized - [0.485, 0.456, 0.406]) / [0.228, 0.224, 0.225]
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0), wanted, atol=1e-5)


def test_dinov3s_frames_are_resized_by_pil_and_rounded_up():
    frame = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    x = FrameInput(90, DINOV3.multiple, "up", "bicubic", DINOV3.mean, DINOV3.std)(frame, 16)
    assert x.shape == (3, 96, 176)
    resized = np.asarray(Image.fromarray(frame).resize((176, 96), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    wanted = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x.numpy().transpose(1, 2, 0), wanted, atol=1e-5)


def test_grids_are_the_frames_patches_in_turn():
    backbone, video = dinobench.load_backbone("random:vit_tiny_patch16_224"), shape_videos.videos().videos[0]
    view = FrameInput(64, 32, mean=DINO.mean, std=DINO.std)
    for ctx in (LocalContext(), LocalContext(batch_size=3)):
        grids = list(frame_grids(backbone, video, view, ctx))
        assert len(grids) == len(video) and {grid.shape[:2] for grid in grids} == {view.grid(video.size, backbone)}
        with torch.inference_mode():
            [(_, patches)] = backbone.layers(view(video.frame(1))[None], 1)
        torch.testing.assert_close(grids[1].flatten(0, 1), patches[0], atol=1e-5, rtol=1e-5)


def test_the_first_frame_that_cannot_be_read_is_named():
    backbone = dinobench.load_backbone("random:vit_tiny_patch16_224")

    class Torn:
        name, names = "torn", ("0", "1")

        def __len__(self):
            return 2

        def frame(self, index):
            raise BrokenImage(f"{index}.jpg: not a readable image")

    with pytest.raises(BrokenImage, match=r"0\.jpg"):
        list(frame_grids(backbone, Torn(), DINO, LocalContext()))
