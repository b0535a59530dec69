"""What methods share."""

from __future__ import annotations

from torch import nn

from dinobench.pretrain.method import update_ema


def test_the_teacher_has_statistics_of_its_own_when_asked():
    teacher, student = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    student.running_mean.fill_(2.0)
    update_ema(teacher, student, 0.5, buffers=False)
    assert not teacher.running_mean.any()
    update_ema(teacher, student, 0.5)
    assert teacher.running_mean.tolist() == [2.0] * 3
