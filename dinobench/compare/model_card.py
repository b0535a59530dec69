"""A model's scores as the `model-index` of its card on the Hugging Face hub, in which they stand beside others'."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dinobench import lazy
from dinobench.errors import UserError, unknown_name
from dinobench.registry import available, load
from dinobench.results.comparability import higher_is_better
from dinobench.types import RunRecord

with lazy.imports():
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

#: The hub's name (huggingface.co/tasks) of what is done on data sets of each kind; features, where it has none.
TASKS = {
    "classification": "image-classification", "label_maps": "image-segmentation", "masks": "image-segmentation",
    "boxes": "object-detection", "depth": "depth-estimation", "keypoints": "keypoint-detection",
}  # fmt: skip
FEATURES = "image-feature-extraction"
#: The hub's names (huggingface.co/metrics) of metrics, by what ours begin with.
METRICS = {"top1": "accuracy", "mIoU": "mean_iou"}
#: What tells our results in a card from others'.
MARK = "dinobench_version"


def model_card(records: Sequence[RunRecord], metrics: Sequence[str] = (), card: Path | None = None) -> str:
    """The card's metadata with a result for each score: the primary metrics, or those that match one of `metrics`.

    What a score rests on is in its `args`: interval, number of items, unit, digests and run id. card: a README.md whose
    text, other metadata and results of others stay; a file that is not there begins with the metadata alone.

    Raises UserError for records of several models, of which each has a card of its own, and for a damaged card.
    """
    names = sorted({r.checkpoint.name for r in records})
    if len(names) != 1:
        raise UserError(f"a model card is of one model: choose with --model {names[0]} (of {', '.join(names)})")
    known = dict.fromkeys(name for r in records for name in r.metrics)
    for pattern in metrics:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise unknown_name("metric", pattern, list(known))
    results = [
        _result(record, name)
        for record in sorted(records, key=lambda r: (r.protocol, r.dataset, r.profile, r.config_hash, r.run_id))
        for name in record.metrics
        if (any(fnmatchcase(name, p) for p in metrics) if metrics else name == record.primary)
    ]
    made = ModelCardData(model_name=names[0], eval_results=results)
    if card is None or not card.exists():
        return f"---\n{made.to_yaml()}\n---\n"
    try:
        old = ModelCard.load(card)
    except Exception as error:  # whatever YAML makes of it
        raise UserError(f"{card}: no model card that could be added to ({type(error).__name__}); mend it") from error
    others = [r for r in old.data.eval_results or [] if MARK not in (r.metric_args or {})]
    old.data.model_name, old.data.eval_results = names[0], [*others, *results]
    return str(old)


def _result(record: RunRecord, name: str) -> EvalResult:
    measured = record.metrics[name]
    rests_on = {
        "unit": measured.unit, "ci_low": measured.ci_low, "ci_high": measured.ci_high, "n": measured.n,
        "higher_is_better": higher_is_better(record, name), "protocol_version": record.protocol_version,
        "config_hash": record.config_hash, "seed": record.seed, "precision": record.precision,
        "weights_digest": record.checkpoint.weights_digest, "run_id": record.run_id, MARK: record.dinobench_version,
    }  # fmt: skip
    # The hub shows the results of one task on one data set together, so that the protocol goes into each metric.
    return EvalResult(
        task_type=_task(record.protocol),
        dataset_type=record.dataset,
        dataset_name=record.dataset,
        dataset_revision=record.dataset_fingerprint,
        dataset_args={"layout": record.dataset_layout},
        metric_type=METRICS.get(name.partition("@")[0], name),
        metric_name=f"{name} ({record.protocol} {record.profile})",
        metric_value=measured.value,
        metric_config=f"{record.protocol} {record.profile}",
        metric_args={k: v for k, v in rests_on.items() if v is not None},
    )


def _task(protocol: str) -> str:
    """The task of a protocol; of one that is not installed here nothing is known."""
    if protocol not in available():
        return FEATURES
    try:
        return TASKS.get(load(protocol).data, FEATURES)
    except UserError:
        return FEATURES
