"""A model card in the form of the Hugging Face Hub: YAML front matter, then text.

The front matter is what the Hub reads: licence, task, data set, and the accuracy as a `model-index`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bitskip.program import Program
from bitskip.zoo.catalog import Card

# What the Hub calls the data sets that models of the zoo are trained on.
_DATASETS = {"CIFAR-10": "uoft-cs/cifar10", "CIFAR-100": "uoft-cs/cifar100"}


def zoo_card(card: Card) -> str:
    """Return the card of a model of the zoo in Markdown, with YAML front matter."""
    metrics = [{"type": "accuracy", "value": card.test_accuracy, "name": "accuracy of the packed file"}]
    if card.tta is not None:
        name = f"accuracy, mean of a picture and its mirror image ({card.tta['kind']})"
        metrics.append({"type": "accuracy", "value": card.tta["accuracy"], "name": name})
    dataset = {"type": _DATASETS.get(card.data, card.data), "name": card.data, "split": "test"}
    front: dict[str, Any] = {
        **_front(card.activations, card.dense),
        "datasets": [_DATASETS[card.data]] if card.data in _DATASETS else [],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": card.name,
                "results": [
                    {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
                ],
            }
        ],
    }
    low, high = card.interval
    rows = [
        ("network", f"`{card.model}`"),
        ("test accuracy", f"{card.test_accuracy:.2%} (95% interval {low:.2%} to {high:.2%})"),
        ("before packing", f"{card.trained_accuracy:.2%}"),
        ("file", f"{card.file_bytes:,} bytes"),
        ("parameters", f"{card.parameters:,}, of which {card.binary_parameters:,} are stored as 1 bit"),
        ("effective parameters", f"{card.effective_parameters:,.0f} (stored weight bits / 32)"),
        ("activations, dense layers", f"{card.activations}, {card.dense}"),
    ]
    if card.latency is not None:
        where = f"one picture, {card.latency['threads']} thread, {card.latency['cpu']}"
        rows.append(("latency", f"{card.latency['median_ms']:.2f} ms ({where})"))
    trained = [
        f"{card.train_images:,} pictures of {card.data}, recipe `{card.recipe}`, {card.epochs} epochs, "
        f"seed {card.seed}.",
        "The accuracy is the last epoch's, on the whole test set.",
    ]
    if card.teacher:
        trained.append(f"It learned from the outputs of `{card.teacher}`.")
    if card.warm_start:
        trained.append(
            f"It started from the weights of `{card.warm_start}`, trained for {card.epochs_before} epochs."
        )
    if card.remark:
        trained.append(card.remark)
    text = [
        f"# {card.name}",
        f"A small residual network for pictures, packed by bitskip into {card.file_bytes:,} bytes.",
        _table(rows),
        "## Use",
        _use(f"{card.name}.bitskip"),
        "## Training",
        " ".join(trained),
        f"```sh\n{card.command}\n```",
        "## Limits",
        f"It knows the classes of {card.data} and gives one of them to any picture. Its accuracy on other "
        "pictures is not known.",
        f"SHA-256 of the file: `{card.sha256}`.",
    ]
    return _front_matter(front) + "\n" + "\n\n".join(text) + "\n"


def file_card(program: Program, filename: str, file_bytes: int) -> str:
    """Return a card of a packed file that has none: what the file says, and no accuracy."""
    height, width, channels = program.input_shape
    names = ", ".join(program.class_names) if program.class_names else "without names"
    rows = [
        ("file", f"{file_bytes:,} bytes"),
        ("picture", f"{height} x {width} x {channels}"),
        ("classes", f"{program.classes}: {names}"),
    ]
    text = [
        f"# {program.name}",
        "A small network for classifying pictures, packed by bitskip.",
        _table(rows),
        "## Use",
        _use(filename),
        "## Training and accuracy",
        "The file does not say how it was trained or how accurate it is; fill this in.",
    ]
    return _front_matter(_front("", "")) + "\n" + "\n\n".join(text) + "\n"


def _front(activations: str, dense: str) -> dict[str, Any]:
    tags = ["bitskip", "image-classification", "binary-neural-network", "edge"]
    return {
        "license": "apache-2.0",
        "library_name": "bitskip",
        "pipeline_tag": "image-classification",
        "tags": tags + (["int8"] if "int8" in (activations, dense) else []),
    }


def _use(filename: str) -> str:
    return (
        "```python\nfrom bitskip.hub import load_from_hub\n\n"
        f'model = load_from_hub("USER/REPOSITORY", "{filename}")\n'
        'print(model.top("picture.png")[0])\n```\n\n'
        "numpy is enough; torch is not loaded."
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _front_matter(values: Mapping[str, Any]) -> str:
    """Return YAML between its marks; each value is written as JSON, which is YAML too."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    return "\n".join(["---", *lines, "---", ""])
