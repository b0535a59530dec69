"""How many backbones are on the device at a time, told by what is asked of them; the device is one in name alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.fakes import FakeBackbone, FakeSplit
from helpers.requests import CLS, SMALL

from dinobench.features.residents import Residents
from dinobench.types import FeatureRequest

DEVICE = torch.device("meta")
#: Other pixels, hence another pass.
OTHER = FeatureRequest(dataclasses.replace(SMALL, crop=6))


class Moving(FakeBackbone):
    """Writes its moves and the most that were on the device at a time to `there`, which several share."""

    def __init__(self, there, name):
        super().__init__(self._check, name=name, weights_digest=name)
        self.there, self.moves = there, []

    def to(self, device):
        self.moves.append(str(device))
        (self.there.now.add if torch.device(device) == DEVICE else self.there.now.discard)(self.info.name)
        self.there.most = max(self.there.most, len(self.there.now))
        return self

    def _check(self, x):
        assert self.info.name in self.there.now


class There:
    def __init__(self):
        self.now, self.most = set(), 0


@pytest.fixture
def there():
    return There()


@pytest.fixture
def on_device(service):
    def make():
        made = service()
        made.residents = Residents(DEVICE)
        return made

    return make


def test_the_next_ones_come_when_the_last_have_gone(there):
    a, b, c = (Moving(there, name) for name in "abc")
    residents = Residents(DEVICE)
    residents.only([a, b, a])
    residents.only([b, c])
    assert there.now == {"b", "c"} and there.most == 2
    residents.also([a])
    residents.only([c])
    assert there.now == {"c"}
    assert (a.moves, b.moves, c.moves) == (["meta", "cpu"] * 2, ["meta", "cpu"], ["meta"])


def test_a_pass_brings_its_own_backbones_alone(there, on_device):
    splits = FakeSplit(6), FakeSplit(6, seed=1)
    pairs = [[Moving(there, f"{group}{i}") for i in range(2)] for group in "ab"]
    wanted = [(b, s, r) for group, r in zip(pairs, (CLS, OTHER), strict=True) for b in group for s in splits]
    on_device().prepare(wanted[::-1])
    assert there.most == 2 and len(there.now) == 2
    assert all(b.images == 12 for pair in pairs for b in pair)
    for backbone in (b for pair in pairs for b in pair):
        backbone.moves.clear()
    there.now.clear()
    again = on_device()
    again.prepare(wanted)
    assert again.get(*wanted[0]).cls.shape == (6, 1, 3)
    assert not there.now  # all of it is in the cache


def test_one_backbone_is_moved_once(there, on_device):
    backbone, service = Moving(there, "a"), on_device()
    service.prepare([(backbone, FakeSplit(6), CLS), (backbone, FakeSplit(6), OTHER)])
    service.residents.only([backbone])
    service.get(backbone, FakeSplit(6, seed=1), CLS)
    assert backbone.moves == ["meta"]


def test_what_a_protocol_asks_of_a_second_one_leaves_its_own_where_it_is(there, on_device):
    own, second, service = Moving(there, "own"), Moving(there, "second"), on_device()
    service.residents.only([own])
    service.get(second, FakeSplit(6), CLS)
    assert there.now == {"own", "second"} and own.moves == ["meta"]
