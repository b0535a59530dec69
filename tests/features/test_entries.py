"""A plan, which imports no torch, finds the very entries that the service fills."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import torch

from dinobench.data import load_dataset
from dinobench.data.transforms import ImageTransform, fitted
from dinobench.features.entries import entry_of
from dinobench.features.service import FeatureService
from dinobench.models.loading import load_backbone
from dinobench.results.known_runs import Known
from dinobench.runtime import start
from dinobench.types import FeatureRequest, ModelInput

REQUEST = FeatureRequest(ImageTransform(8, 8))
CODE = """
import sys
from dinobench.features import entries
print(entries._torch().split("+")[0], "torch" in sys.modules)
"""


def test_the_entry_of_a_backbone_is_that_of_what_stands_in_for_it(tmp_path):
    backbone, split = load_backbone("pixels:4"), load_dataset("digits").test
    service = FeatureService(start("cpu"), tmp_path)
    known = Known(backbone.info, backbone.capabilities)
    assert entry_of(tmp_path, "32", known, split, REQUEST) == service.entry(backbone, split, REQUEST)


def test_a_request_takes_the_input_of_the_model():
    info = dataclasses.replace(load_backbone("pixels:4").info, input=ModelInput((0.5,) * 3, (0.5,) * 3, "told"))
    request = fitted(REQUEST, Known(info), load_dataset("digits").test)
    assert request.transform.mean == (0.5,) * 3 and request.transform.crop == 8


def test_the_version_of_torch_is_the_same_without_importing_it():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [torch.__version__.split("+")[0], "False"]
