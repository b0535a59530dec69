"""Figures that papers published, each with its source, to stand beside one's own. They are never ranked with ours:
the data, the code and the library versions behind them are not known to be the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

DINO = "Caron et al. 2021, arXiv 2104.14294"
DINO_README = "facebookresearch/dino, README, pretrained models"
DINOV2_README = "facebookresearch/dinov2, README, pretrained models"
LOST_README = "valeoai/LOST, README"
TOKENCUT_README = "YangtaoWANG95/TokenCut, README"
HUMMINGBIRD_README = "vpariza/open-hummingbird-eval, README"


@dataclass(frozen=True)
class PublishedScore:
    """A published score in per cent. `checked` is whether it was compared with the source named, or a copy of it;
    the others are from memory of the paper and say so wherever they are shown. `headline` figures are those of a
    protocol's primary metric.
    """

    model: str
    method: str
    arch: str
    protocol: str
    dataset: str
    metric: str
    value: float
    source: str
    checked: bool
    headline: bool = True


def _classification() -> Iterable[PublishedScore]:
    """ImageNet-1k top-1 on features as the checkpoints were released: k-NN with k = 20, and a linear probe."""
    dino = {
        "ViT-S/16": (74.5, 77.0), "ViT-S/8": (78.3, 79.7), "ViT-B/16": (76.1, 78.2), "ViT-B/8": (77.4, 80.1),
        "ResNet-50": (67.5, 75.3),
    }  # fmt: skip
    dinov2 = {"ViT-S/14": (79.0, 81.1), "ViT-B/14": (82.1, 84.5), "ViT-L/14": (83.5, 86.3), "ViT-g/14": (83.5, 86.5)}
    for method, source, table in (("DINO", DINO_README, dino), ("DINOv2", DINOV2_README, dinov2)):
        for arch, (knn, linear) in table.items():
            name = f"{method} {arch}"
            yield PublishedScore(name, method, arch, "knn", "ImageNet-1k", "top1@k20", knn, source, True)
            yield PublishedScore(name, method, arch, "linear", "ImageNet-1k", "top1", linear, source, True)


def _dino(arch: str, protocol: str, dataset: str, metric: str, value: float, where: str, *, checked: bool = False,
          headline: bool = True, model: str = "") -> PublishedScore:  # fmt: skip
    source = f"{DINO}, {where}"
    name = model or f"DINO {arch}"
    return PublishedScore(name, name.split()[0], arch, protocol, dataset, metric, value, source, checked, headline)


def _davis() -> Iterable[PublishedScore]:
    """DAVIS 2017 val. Confirmed are J&F of S/16, by the first author (0.6177 in facebookresearch/dino#46), and of B/8,
    by the paper's page on paperswithcode.com.
    """
    for arch, scores in {
        "ViT-S/16": (61.8, 60.2, 63.4), "ViT-S/8": (69.9, 66.6, 73.1), "ViT-B/16": (62.3, 60.7, 63.9),
        "ViT-B/8": (71.4, 67.9, 74.9),
    }.items():  # fmt: skip
        for metric, value in zip(("J&F", "J_mean", "F_mean"), scores, strict=True):
            checked = metric == "J&F" and arch in ("ViT-S/16", "ViT-B/8")
            yield _dino(arch, "davis", "DAVIS 2017 val", metric, value, "Table 5", checked=checked,
                        headline=metric == "J&F")  # fmt: skip


def _attention() -> Iterable[PublishedScore]:
    for name, arch, value in (
        ("random ViT-S/16", "ViT-S/16", 22.0), ("supervised ViT-S/16", "ViT-S/16", 27.3),
        ("DINO ViT-S/16", "ViT-S/16", 45.9), ("DINO ViT-S/8", "ViT-S/8", 44.7),
    ):  # fmt: skip
        yield _dino(arch, "attention", "VOC 2012 val", "jaccard", value, "Figure 4", model=name)


def _copies() -> Iterable[PublishedScore]:
    """Copydays' strong block with 10,000 distractors and whitening; B/8 is confirmed by paperswithcode.com."""
    yield _dino("ViT-B/16", "copydetect", "Copydays + 10k", "mAP_strong", 81.7, "Table 4")
    yield _dino("ViT-B/8", "copydetect", "Copydays + 10k", "mAP_strong", 85.5, "Table 4", checked=True)


def _landmarks() -> Iterable[PublishedScore]:
    """Revisited Oxford and Paris. ResNet-50 on Oxford is confirmed by facebookresearch/dino#219, which quotes it."""
    for model, arch, sets in (
        ("DINO ViT-S/16", "ViT-S/16", ((41.8, 13.7), (63.1, 34.4))),
        ("DINO ResNet-50", "ResNet-50", ((35.4, 11.1), (55.9, 27.5))),
        ("DINO ViT-S/16 on GLDv2", "ViT-S/16", ((51.5, 24.3), (75.3, 51.6))),
    ):
        for dataset, scores in zip(("ROxford5k", "RParis6k"), sets, strict=True):
            for metric, value in zip(("mAP_medium", "mAP_hard"), scores, strict=True):
                checked = arch == "ResNet-50" and dataset == "ROxford5k"
                yield _dino(arch, "retrieval", dataset, metric, value, "Table 3", checked=checked, model=model,
                            headline=metric == "mAP_medium")  # fmt: skip


def _transfer() -> Iterable[PublishedScore]:
    sets = ("CIFAR-10", "CIFAR-100", "iNat18", "iNat19", "Flowers", "Cars", "ImageNet-1k")
    for arch, scores in {
        "ViT-S/16": (99.0, 90.5, 72.0, 78.2, 98.5, 93.0, 81.5), "ViT-B/16": (99.1, 91.7, 72.6, 78.6, 98.8, 93.0, 82.8),
    }.items():  # fmt: skip
        for dataset, value in zip(sets, scores, strict=True):
            yield _dino(arch, "finetune", dataset, "top1", value, "Table 6")


def _discovery() -> Iterable[PublishedScore]:
    """CorLoc of one box an image on VOC07 and VOC12 trainval and COCO20k."""
    lost = {
        "ViT-S/16": (61.9, 64.0, 50.7), "ViT-S/8": (55.5, 57.0, 49.5), "ViT-B/16": (60.1, 63.3, 50.0),
        "ResNet-50": (36.8, 42.7, 26.5),
    }  # fmt: skip
    tokencut = {"ViT-S/16": (68.8, 72.1, 58.8), "ViT-S/8": (67.3, 71.6, 60.7), "ViT-B/16": (68.8, 72.4, 59.0)}
    for how, source, table in (("LOST", LOST_README, lost), ("TokenCut", TOKENCUT_README, tokencut)):
        for arch, scores in table.items():
            for dataset, value in zip(("VOC 2007", "VOC 2012", "COCO20k"), scores, strict=True):
                model = f"DINO {arch}, {how}"
                yield PublishedScore(model, "DINO", arch, "discovery", dataset, "corloc", value, source, True)


def _saliency() -> Iterable[PublishedScore]:
    """TokenCut's foregrounds of DINO's ViT-S/16, without the bilateral solver and with it."""
    alone = {"ECSSD": (80.3, 71.2, 91.8), "DUTS-TE": (67.2, 57.6, 90.3), "DUT-OMRON": (60.0, 53.3, 88.0)}
    solved = {"ECSSD": (87.4, 77.2, 93.4), "DUTS-TE": (75.5, 62.4, 91.4), "DUT-OMRON": (69.7, 61.8, 89.7)}
    for model, table in (("DINO ViT-S/16", alone), ("DINO ViT-S/16, bilateral solver", solved)):
        for dataset, scores in table.items():
            for metric, value in zip(("max_f", "iou", "accuracy"), scores, strict=True):
                yield PublishedScore(model, "DINO", "ViT-S/16", "saliency", dataset, metric, value, TOKENCUT_README,
                                     True, headline=metric == "iou")  # fmt: skip


def _incontext() -> Iterable[PublishedScore]:
    """VOC 2012 val by nearest patches, from memories of three sizes, scored as the release does."""
    for model, scores in {
        "DINO ViT-S/16": (37.2, 43.1, 46.6), "DINO ViT-B/16": (44.9, 50.8, 55.7), "DINOv2 ViT-S/14": (70.2, 74.9, 77.0),
        "DINOv2 ViT-B/14": (69.1, 74.6, 76.9), "DINOv2 ViT-L/14": (64.6, 71.7, 74.8),
    }.items():  # fmt: skip
        method, arch = model.split(" ")
        for size, value in zip(("102 k", "1 M", "10 M"), scores, strict=True):
            yield PublishedScore(f"{model}, memory {size}", method, arch, "incontext", "VOC 2012 val", "mIoU_released",
                                 value, HUMMINGBIRD_README, True, headline=False)  # fmt: skip


FIGURES: tuple[PublishedScore, ...] = (
    *_classification(), *_davis(), *_attention(), *_copies(), *_landmarks(), *_transfer(), *_discovery(),
    *_saliency(), *_incontext(),
)  # fmt: skip

#: References under which the models of these figures can be had: timm's names, Hugging Face's, torch.hub's.
RELEASES: dict[str, str] = {
    "timm:vit_small_patch16_224.dino": "DINO ViT-S/16",
    "timm:vit_small_patch8_224.dino": "DINO ViT-S/8",
    "timm:vit_base_patch16_224.dino": "DINO ViT-B/16",
    "timm:vit_base_patch8_224.dino": "DINO ViT-B/8",
    "timm:vit_small_patch14_dinov2.lvd142m": "DINOv2 ViT-S/14",
    "timm:vit_base_patch14_dinov2.lvd142m": "DINOv2 ViT-B/14",
    "timm:vit_large_patch14_dinov2.lvd142m": "DINOv2 ViT-L/14",
    "timm:vit_giant_patch14_dinov2.lvd142m": "DINOv2 ViT-g/14",
    "hf:facebook/dino-vits16": "DINO ViT-S/16",
    "hf:facebook/dino-vits8": "DINO ViT-S/8",
    "hf:facebook/dino-vitb16": "DINO ViT-B/16",
    "hf:facebook/dino-vitb8": "DINO ViT-B/8",
    "hf:facebook/dinov2-small": "DINOv2 ViT-S/14",
    "hf:facebook/dinov2-base": "DINOv2 ViT-B/14",
    "hf:facebook/dinov2-large": "DINOv2 ViT-L/14",
    "hf:facebook/dinov2-giant": "DINOv2 ViT-g/14",
    "torchhub:facebookresearch/dino:main:dino_vits16": "DINO ViT-S/16",
    "torchhub:facebookresearch/dino:main:dino_vits8": "DINO ViT-S/8",
    "torchhub:facebookresearch/dino:main:dino_vitb16": "DINO ViT-B/16",
    "torchhub:facebookresearch/dino:main:dino_vitb8": "DINO ViT-B/8",
    "torchhub:facebookresearch/dino:main:dino_resnet50": "DINO ResNet-50",
}


def figures_of(reference: str) -> list[PublishedScore]:
    """The headline figures of the model that a reference stands for.

    >>> [(f.protocol, f.value) for f in figures_of("hf:facebook/dinov2-base")]
    [('knn', 82.1), ('linear', 84.5)]
    """
    model = RELEASES.get(reference)
    return [f for f in FIGURES if f.model == model and f.headline]


def published_scores(protocols: Iterable[str], metrics: Iterable[str] = ()) -> list[PublishedScore]:
    """The figures of these protocols: the headline ones, or those of metrics that match one of the patterns.

    >>> [f.value for f in published_scores(["copydetect"])]
    [81.7, 85.5]
    """
    wanted, patterns = set(protocols), list(metrics)
    return [
        f
        for f in FIGURES
        if f.protocol in wanted and (any(fnmatchcase(f.metric, p) for p in patterns) if patterns else f.headline)
    ]
