"""`bitskip zoo`: the trained models in the package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bitskip.cli.options import DataOption, JsonOption, read_images

if TYPE_CHECKING:
    from bitskip.zoo import Card

zoo = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(zoo, name="zoo", help="Trained, packed models that come with the package.")


@zoo.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models with accuracy, bytes and recipe.

    Accuracy is that of the packed file on the whole CIFAR-10 test set, last epoch, with its 95 % interval.

    Examples:

    - `bitskip zoo list`
    - `bitskip zoo list --json`
    """
    from bitskip.zoo import card_of, zoo_names

    cards = [card_of(name) for name in zoo_names()]
    if as_json:
        typer.echo(json.dumps([card.to_dict() for card in cards], indent=2))
        return
    from bitskip.terminal import byte_size, number, print_table

    print_table(
        "Models in the package",
        ["name", "accuracy", "95 % interval", "file", "effective", "computes in", "ms", "recipe", "epochs"],
        [
            [
                card.name,
                f"{card.test_accuracy:.2%}",
                f"{card.interval[0]:.1%} to {card.interval[1]:.1%}",
                byte_size(card.file_bytes),
                number(card.effective_parameters),
                card.activations,
                _latency(card),
                card.recipe,
                number(card.epochs),
            ]
            for card in cards
        ],
        left_columns=(0, 5, 7),
        notes=[
            "ms: median of one picture on one thread, on the machine that its card names",
            "try one: bitskip run $(bitskip zoo path NAME) IMAGE",
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


@zoo.command("eval")
def evaluate(
    name: Annotated[str, typer.Argument(help="A name of `bitskip zoo list`.")],
    data: DataOption = None,
    threads: Annotated[int, typer.Option(help="Threads of the native engine.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Test a model on the whole test set and compare with its card; exit code 1 if they differ.

    Examples:

    - `bitskip zoo eval NAME`
    - `bitskip zoo eval NAME --data DIR --json`
    """
    from bitskip.runtime import load
    from bitskip.runtime.accuracy import measure
    from bitskip.zoo import card_of, model_path

    card = card_of(name)
    model = load(model_path(name), threads=threads)
    images = read_images(data, model.input_shape[0])
    found = measure(model, images.test_images, images.test_labels)
    same_pictures = len(images.test_images) == card.test_images and images.name == card.data
    agrees = _agrees(found.hits, card.test_correct, card.test_images) if same_pictures else None
    if as_json:
        values = {
            "name": name,
            "data": images.name,
            "test_images": found.images,
            "correct": found.hits,
            "test_accuracy": found.share,
            "interval": list(found.interval),
            "card": card.test_accuracy,
            "agrees": agrees,
            "engine": model.engine,
        }
        typer.echo(json.dumps(values, indent=2))
    else:
        low, high = found.interval
        typer.echo(
            f"{name}: {found.share:.2%} of {found.images:,} pictures of {images.name} "
            f"({low:.2%} to {high:.2%}), {_VERDICTS[agrees]} ({card.test_accuracy:.2%})"
        )
    if agrees is False:
        raise typer.Exit(1)


_VERDICTS = {True: "as on its card", False: "NOT as on its card", None: "on other pictures than its card's"}


def _agrees(correct: int, card: int, images: int) -> bool:
    """Whether two counts are of one network: float sums in another order may turn a picture in a thousand."""
    return abs(correct - card) <= images // 1000
