"""Data sets as they lie on disks: one file a layout.

A layout is a module with

- `NAME` and `SUMMARY`: what it is called, and a paragraph with the expected tree whose first sentence stands alone;
- `recognises(path) -> bool`: a quick look, without reading images;
- `load(path, name)` or `load(path, name, progress=None)` -> the data set, raising UserError for what is wrong in it;
- optionally `default_name(path)`, where the name of the folder does not say it;
- optionally `load_images(path, name, progress=None)`, what pretraining learns from where that is not what `load` gives;
- optionally `listed(path)`, what a share can be drawn from to score on, and `undivided(path) -> bool` where that is to
  be done for what `recognises` does not take.

Modules are imported when a data set of their kind is asked for, so that importing this package stays instant.
"""

from __future__ import annotations

#: The kind that pretraining learns from, which needs neither labels nor a test split: nearly any folder is of it.
UNLABELLED = "images"
#: What label-free measures look at: a data set with labels, or any images without.
ANY_IMAGES = "images with labels or without"
#: Kinds of data sets, as protocols name them in `data`, with the modules of their layouts in the order they are tried.
KINDS: dict[str, tuple[str, ...]] = {
    "classification": (
        "dinobench.data.layouts.cifar",
        "dinobench.data.layouts.csv_table",
        "dinobench.data.layouts.transfer",
        "dinobench.data.layouts.labelled.imagenet",
        "dinobench.data.layouts.labelled.saved",
        "dinobench.data.layouts.labelled.parquet",
        "dinobench.data.layouts.labelled.webdataset",
        "dinobench.data.layouts.voc_classes",
        "dinobench.data.layouts.imagefolder",
        "dinobench.data.layouts.labelled.class_folders",
        "dinobench.data.layouts.labelled.torchvision_sets",
    ),
    UNLABELLED: (
        "dinobench.data.layouts.cifar",
        "dinobench.data.layouts.labelled.imagenet",
        "dinobench.data.layouts.labelled.saved",
        "dinobench.data.layouts.labelled.parquet",
        "dinobench.data.layouts.labelled.webdataset",
        "dinobench.data.layouts.unlabelled",
        "dinobench.data.layouts.tar",
    ),
    "copies": ("dinobench.data.layouts.copydays",),
    "videos": ("dinobench.data.layouts.davis",),
    "masks": ("dinobench.data.layouts.voc", "dinobench.data.layouts.coco", "dinobench.data.layouts.saliency"),
    "boxes": ("dinobench.data.layouts.voc_boxes", "dinobench.data.layouts.coco_boxes"),
    "depth": ("dinobench.data.layouts.dense.nyu", "dinobench.data.layouts.dense.kitti"),
    "landmarks": ("dinobench.data.layouts.landmarks",),
    "keypoints": ("dinobench.data.pairs.spair",),
    "navi": ("dinobench.data.pairs.navi",),
    "label_maps": (
        "dinobench.data.layouts.dense.voc_segmentation",
        "dinobench.data.layouts.dense.ade20k",
        "dinobench.data.layouts.dense.cityscapes",
    ),
}
KINDS[ANY_IMAGES] = tuple(dict.fromkeys((*KINDS["classification"], *KINDS[UNLABELLED])))
