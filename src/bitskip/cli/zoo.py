"""`bitskip zoo`: the trained models in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitskip.cli.options import DataOption, JsonOption, TtaOption, WideOption, read_images, say, wants_flip

if TYPE_CHECKING:
    from bitskip.zoo import Card

zoo = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Trained, packed models that come with the package.",
)


@zoo.command("list")
def list_models(wide: WideOption = False, as_json: JsonOption = False) -> None:
    """List the models with accuracy, bytes and recipe.

    Accuracy is that of the packed file on the whole CIFAR-10 test set, last epoch, with its 95 % interval.

    Examples:

    - `bitskip zoo list`
    - `bitskip zoo list --wide`
    - `bitskip zoo list --json`
    """
    from bitskip.zoo import card_of, zoo_names

    cards = [card_of(name) for name in zoo_names()]
    if as_json:
        typer.echo(json.dumps([card.to_dict() for card in cards], indent=2))
        return
    from bitskip.report.wording import epochs
    from bitskip.terminal import byte_size, number, print_table

    print_table(
        "Models in the package",
        [
            *("name", "accuracy", "file", "ms", "computes in", "95 % interval", "with TTA", "effective"),
            *("recipe", "epochs"),
        ],
        [
            [
                card.name,
                f"{card.test_accuracy:.2%}",
                byte_size(card.file_bytes),
                _latency(card),
                card.activations,
                f"{card.interval[0]:.1%} to {card.interval[1]:.1%}",
                "" if card.tta is None else f"{card.tta['accuracy']:.2%}",
                number(card.effective_parameters),
                card.recipe,
                epochs(card.epochs, card.epochs_before),
            ]
            for card in cards
        ],
        left_columns=(0, 4, 8),
        wide=wide,
        notes=[
            "with TTA: mean of a picture and its mirror image (`bitskip zoo eval NAME --tta flip`)",
            "ms: median of one picture on one thread, on the machine that its card names",
            "try one: bitskip run NAME IMAGE",
        ],
    )


def _latency(card: Card) -> str:
    return "" if card.latency is None else f"{card.latency['median_ms']:.2f}"


@zoo.command("path")
def path(name: Annotated[str, typer.Argument(help="A name of `bitskip zoo list`.")]) -> None:
    """Print the path of a model's packed file.

    Example: `bitskip run "$(bitskip zoo path NAME)" cat.png`
    """
    from bitskip.zoo import model_path

    typer.echo(str(model_path(name)))


@zoo.command("card")
def card(name: Annotated[str, typer.Argument(help="A name of `bitskip zoo list`.")]) -> None:
    """Print a model's card in the form of the Hugging Face Hub: YAML front matter, then Markdown.

    Example: `bitskip zoo card resnet14-binary-all-int8 > README.md`
    """
    from bitskip.zoo import card_of
    from bitskip.zoo.model_card import zoo_card

    typer.echo(zoo_card(card_of(name)), nl=False)


@zoo.command("push")
def push(
    model: Annotated[str, typer.Argument(help="A packed model: M.bitskip, or a name of bitskip zoo list.")],
    repository: Annotated[str, typer.Argument(help="Repository of the Hugging Face Hub: USER/NAME.")],
    card: Annotated[
        str | None,
        typer.Option(help="Markdown file that becomes README.md.  [default: made]", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to.", show_default=False)] = None,
) -> None:
    """Put a packed model and its card on the Hugging Face Hub (extra `hub`).

    Example: `bitskip zoo push mine.bitskip USER/mine`
    """
    from bitskip.files import read_text
    from bitskip.hub import push_to_hub

    text = None if card is None else read_text(Path(card))
    typer.echo(push_to_hub(model, repository, card=text, private=private, revision=revision))


@zoo.command("pull")
def pull(
    repository: Annotated[str, typer.Argument(help="Repository of the Hugging Face Hub: USER/NAME.")],
    filename: Annotated[
        str | None, typer.Argument(help="A packed file in it; not needed if it holds one.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="File to write.  [default: the file's name, here]", show_default=False
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default=False)] = None,
) -> None:
    """Fetch a packed model from the Hugging Face Hub (extra `hub`), after checking it.

    Example: `bitskip zoo pull USER/mine -o mine.bitskip`
    """
    from bitskip.files import write_bytes
    from bitskip.hub import fetch_from_hub
    from bitskip.program import Program

    found = fetch_from_hub(repository, filename, revision=revision)
    Program.load(found)
    target = Path(out or found.name)
    write_bytes(target, found.read_bytes())
    typer.echo(str(target))


@zoo.command("eval")
def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names of `bitskip zoo list`; all if not given."),
    ] = None,
    data: DataOption = None,
    threads: Annotated[int, typer.Option(help="Threads of the native engine.")] = 1,
    tta: TtaOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Test models on the whole test set and compare with their cards; exit code 1 if one differs.

    With `--json` one name gives an object, several or none give a list.

    Examples:

    - `bitskip zoo eval` (every model of the package)
    - `bitskip zoo eval NAME --data DIR --json`
    - `bitskip zoo eval NAME --tta flip`
    """
    from bitskip.zoo import model_path, zoo_names

    flip = wants_flip(tta)
    paths = {name: model_path(name) for name in names or zoo_names()}  # all are sound before the first is run
    found = []
    for name, path in paths.items():
        found.append(_evaluate(name, path, data, threads, flip))
        if not as_json:
            typer.echo(_verdict(found[-1]))
    if as_json:
        typer.echo(json.dumps(found[0] if names and len(names) == 1 else found, indent=2))
    if any(values["agrees"] is False for values in found):
        raise typer.Exit(1)


def _evaluate(name: str, path: Path, data: str | None, threads: int, flip: bool) -> dict[str, Any]:
    from bitskip.errors import DataError
    from bitskip.runtime import load
    from bitskip.runtime.accuracy import measure, measure_with_flip
    from bitskip.zoo import card_of

    card = card_of(name)
    model = load(path, threads=threads)
    images = read_images(data, model.input_shape[0])
    images = images.for_classes(model.program.class_names, model.program.classes, name, say)
    if images.test_images.shape[1:] != model.input_shape:
        raise DataError(
            f"{images.name} has pictures of {images.image_size} pixels, which do not fit {name}; name the "
            f"data set that it was trained on ({card.data}) with --data"
        )
    augmented = None
    if flip:
        plain, augmented = measure_with_flip(model, images.test_images, images.test_labels)
    else:
        plain = measure(model, images.test_images, images.test_labels)
    same_pictures = len(images.test_images) == card.test_images and images.name == card.data
    agrees = _agrees(plain.hits, card.test_correct, card.test_images) if same_pictures else None
    if agrees and augmented is not None and card.tta is not None:
        agrees = _agrees(augmented.hits, card.tta["hits"], card.test_images)
    return {
        "name": name,
        "data": images.name,
        "test_images": plain.images,
        "correct": plain.hits,
        "test_accuracy": plain.share,
        "interval": list(plain.interval),
        "card": card.test_accuracy,
        "agrees": agrees,
        "engine": model.engine,
    } | ({} if augmented is None else {"tta": augmented.to_dict("flip")})


_VERDICTS = {True: "as on its card", False: "NOT as on its card", None: "on other pictures than its card's"}


def _verdict(values: dict[str, Any]) -> str:
    low, high = values["interval"]
    text = (
        f"{values['name']}: {values['test_accuracy']:.2%} of {values['test_images']:,} pictures of "
        f"{values['data']} ({low:.2%} to {high:.2%}), {_VERDICTS[values['agrees']]} ({values['card']:.2%})"
    )
    if "tta" in values:
        low, high = values["tta"]["interval_95"]
        text += f"; with mirror image {values['tta']['accuracy']:.2%} ({low:.2%} to {high:.2%})"
    return text


def _agrees(correct: int, card: int, images: int) -> bool:
    """Whether two counts are of one network: float sums in another order may turn a picture in a thousand."""
    return abs(correct - card) <= images // 1000


@zoo.command("page")
def page(
    out: Annotated[str, typer.Option(help="Markdown page to write; the plot goes beside it as SVG.")],
    results: Annotated[
        list[str] | None,
        typer.Option(
            help="A run's result.json, a study's results.json or a card to show as well; repeat the option.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page with accuracy against size: the zoo, the paper's nine and published networks.

    It says which accuracy bars are met. Nothing is trained and torch is not needed.

    Examples:

    - `bitskip zoo page --out docs/accuracy.md`
    - `bitskip zoo page --out accuracy.md --results runs/wide/result.json --results results/full/results.json`
    """
    from bitskip.report.accuracy import judge, write_accuracy
    from bitskip.report.ours import ours_of_card, ours_of_file
    from bitskip.study.references import BARS
    from bitskip.zoo import card_of, zoo_names

    ours = [ours_of_card(card_of(name)) for name in zoo_names()]
    for path in results or []:
        ours += ours_of_file(Path(path))
    picture = write_accuracy(ours, Path(out))
    verdicts = [judge(bar, ours) for bar in BARS]
    if as_json:
        bars = [
            {
                "network": verdict.bar.title,
                "bar": verdict.bar.accuracy,
                "state": verdict.state,
                "accuracy": verdict.accuracy,
                "seeds": verdict.seeds,
            }
            for verdict in verdicts
        ]
        typer.echo(json.dumps({"page": out, "plot": str(picture), "bars": bars}, indent=2))
        return
    for verdict in verdicts:
        reached = "" if verdict.accuracy is None else f" ({verdict.accuracy:.2%})"
        bar = "no bar" if verdict.bar.accuracy is None else f"{verdict.bar.accuracy:.1%}"
        typer.echo(f"{verdict.bar.title}: {bar}, {verdict.state}{reached}")
    typer.echo(f"page: {out}, plot: {picture}")
