"""At what scale a study was run, said plainly: facts for a list, sentences for the top of a report."""

from __future__ import annotations

from bitskip.report.runs import grid_rows, treatments
from bitskip.report.wording import count, duration, listing
from bitskip.results.study import Results
from bitskip.spec import PAPER_VARIANTS, named_spec
from bitskip.study.paper import EPOCHS

_CIFAR10 = (50_000, 10_000)  # training and test pictures


def facts(results: Results) -> list[tuple[str, str]]:
    """Return what the study was run with, as (label, text)."""
    study, rows = results.study, results.rows
    data = study.data
    run = sum(bool(grid_rows(results, model)) for model in PAPER_VARIANTS)
    found = treatments(results)
    seeds = sorted({row.seed for row in rows})
    arithmetic = sorted({str(row.extra["precision"]) for row in rows if "precision" in row.extra})
    machine = study.machine
    changed = ", ".join(f"{key}={value}" for key, value in study.extra.get("changes", {}).items())
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    processor = [str(machine.get("cpu", "")), cores, str(machine.get("system", ""))]
    what = f"{count(len(rows))} finished" + (f": {run} of the paper's nine variants" if run else "")
    if found:
        what += f"{',' if run else ':'} {len(found)} treatments of the puzzle"
    pairs = [
        ("Preset", study.preset),
        ("Runs", what),
        ("Width", _width(study.width)),
        (
            "Epochs",
            f"{study.epochs}" + (f" (paper: {EPOCHS})" if study.epochs != EPOCHS else ""),
        ),
        (
            "Data",
            f"{data.name}: {count(data.train_images)} training, {count(data.validation_images)} validation, "
            f"{count(data.test_images)} test pictures" + (", the whole data set" if _whole(results) else ""),
        ),
        ("Seeds", ", ".join(map(str, seeds)) if seeds else "none yet"),
        ("Recipe", study.recipe + (f", changed: {changed}" if changed else "")),
        ("Gradient estimator", ", ".join(sorted({row.estimator for row in rows} or {study.estimator}))),
        ("Arithmetic", ", ".join(arithmetic)),
        ("Machine", ", ".join(filter(None, processor))),
        ("Software", ", ".join(f"{name} {version}" for name, version in study.versions.items())),
        ("Training time", duration(sum(row.seconds for row in rows)) if rows else ""),
    ]
    return [(label, text) for label, text in pairs if text]


def _width(width: float) -> str:
    channels = listing((count(w) for w in named_spec(PAPER_VARIANTS[0]).scaled(width).widths), "and")
    share = f"{width:g} of the paper's" if width != 1 else "the paper's"
    return f"{share} ({channels} channels)"


def _whole(results: Results) -> bool:
    data = results.study.data
    sizes = (data.train_images + data.validation_images, data.test_images)
    return data.name == "CIFAR-10" and sizes == _CIFAR10


def caveats(results: Results) -> list[str]:
    """Return what a reader must know before comparing the numbers with the paper's."""
    study = results.study
    sentences = []
    if not _whole(results):
        pictures = count(study.data.train_images + study.data.validation_images)
        sentences.append(
            f"Trained on {study.data.name}, {pictures} pictures, instead of CIFAR-10's 50,000: "
            "this shows that everything runs, and its accuracies say nothing about the paper's."
        )
    smaller = []
    if study.width != 1:
        smaller.append(f"{study.width:g} of the paper's width")
    if study.epochs != EPOCHS:
        smaller.append(f"{study.epochs} epoch{'s' if study.epochs != 1 else ''} instead of {EPOCHS}")
    if smaller:
        sentences.append(
            f"Not at the paper's scale: {listing(smaller)}. Compare orderings rather than figures."
        )
    small = [
        f"at {pixels} pixels for {100 * share:.0f}% of its length"
        for share, pixels in study.extra.get("changes", {}).get("resolution", [])
    ]
    if small:
        sentences.append(
            f"To save time, training shows pictures {listing(small, 'and')}; the test shows them as they are."
        )
    missing = [model for model in PAPER_VARIANTS if not grid_rows(results, model)]
    if missing and not treatments(results):
        sentences.append(
            f"{len(missing)} of the nine variants were not run."
            if len(missing) > 1
            else f"{missing[0]} was not run."
        )
    seeds = {row.seed for row in results.rows}
    if len(seeds) > 1:
        sentences.append("Ours are means over seeds ± standard deviation.")
    sentences.append(
        "The paper's accuracies are the best epoch of 100; ours are the last epoch's, "
        "on the whole test set, which was looked at once."
    )
    return sentences
