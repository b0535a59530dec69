"""Right or wrong: from class scores to top-1 and top-5, where one class is right and where several are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from dinobench.types import ImageClassification


def label_rank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The 0-based place of the true class when classes are sorted by score.

    scores (n, classes), labels (n,) int64 -> (n,) int64. Equal scores are ordered by class index, which is what a
    stable descending sort gives; no sort is done. Of several classifiers, scores are (n, classes, h) and the places
    (n, h); labels may then be (n, h) as well.

    >>> label_rank(torch.tensor([[0.1, 0.7, 0.7], [0.0, 0.0, 1.0]]), torch.tensor([2, 1]))
    tensor([1, 2])
    """
    rest = scores.ndim - 2
    true = labels.view(len(labels), 1, *labels.shape[1:], *[1] * (rest + 1 - labels.ndim))
    own = scores.gather(1, true.expand(-1, 1, *scores.shape[2:]))
    before = torch.arange(scores.shape[1], device=scores.device).view(-1, *[1] * rest) < true
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def first_argmax(scores: torch.Tensor) -> torch.Tensor:
    """The best class of each row, the lowest index where several are equal. (n, classes) -> (n,) int64.

    >>> first_argmax(torch.tensor([[0.1, 0.7, 0.7]]))
    tensor([1])
    """
    best = scores == scores.amax(dim=1, keepdim=True)
    return best.to(torch.uint8).argmax(dim=1)  # argmax of a mask of ones finds the first in every torch release


def best_answer(own: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Of the right classes that of the highest score, of equal ones the first: own (n, a, …), answers (n, a) -> (n, …).

    `own` are the scores of the answers; those that are -1 stand for none.
    """
    shape = (*answers.shape, *[1] * (own.ndim - 2))
    every = answers.view(shape).expand_as(own)
    best = first_argmax(own.masked_fill(every < 0, -torch.inf))
    return every.gather(1, best[:, None])[:, 0]


def answer_rank(scores: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """`label_rank` where several classes may be right: the place of the best of them.

    answers (n,), or (n, a) ascending with -1 behind where there are fewer. So top-k is right when any of the k best
    classes is an answer.

    >>> answer_rank(torch.tensor([[0.5, 0.1, 0.2], [0.5, 0.1, 0.2]]), torch.tensor([[1, 2], [0, -1]]))
    tensor([1, 0])
    """
    if answers.ndim == 2:
        at = answers.clamp(min=0).view(*answers.shape, *[1] * (scores.ndim - 2))
        answers = best_answer(scores.gather(1, at.expand(-1, -1, *scores.shape[2:])), answers)
    return label_rank(scores, answers)


@dataclass(frozen=True)
class Truth:
    """What is right for some images, and which classes may be chosen for them.

    `among` (k,) int64 ascending are the classes open to choice, None where all are. `answers` are the right ones as
    `answer_rank` takes them, counted among these.
    """

    answers: torch.Tensor
    among: torch.Tensor | None = None

    @classmethod
    def of(cls, data: ImageClassification, rows: np.ndarray) -> Truth:
        """That of the test images `rows` (n,), by the data set's own rule where it has one."""
        own = data.test.labels if data.answers is None else data.answers
        answers = torch.from_numpy(np.asarray(own, np.int64)[rows])
        if data.among is None:
            return cls(answers)
        among = torch.from_numpy(np.asarray(data.among, np.int64))
        return cls(torch.where(answers < 0, answers, torch.searchsorted(among, answers)), among)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, rows: slice | torch.Tensor) -> Truth:
        return Truth(self.answers[rows], self.among)

    def to(self, device: torch.device) -> Truth:
        return Truth(self.answers.to(device), None if self.among is None else self.among.to(device))

    def ranks(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes) or (n, classes, h) of all classes -> the place of the true one, 0 is right."""
        return answer_rank(self.open(scores), self.answers)

    def chosen(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes) of all classes -> the class chosen (n,)."""
        best = first_argmax(self.open(scores))
        return best if self.among is None else self.among[best]

    def open(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes, …) of all classes -> those of the open ones (n, k, …)."""
        return scores if self.among is None else scores.index_select(1, self.among)

    def names(self, classes: Sequence[str]) -> list[str]:
        """The right classes of each image, those of one image with bars between them."""
        known = classes if self.among is None else [classes[i] for i in self.among.tolist()]
        if self.answers.ndim == 1:
            return [known[i] for i in self.answers.tolist()]
        return [" | ".join(known[i] for i in row if i >= 0) for row in self.answers.tolist()]
