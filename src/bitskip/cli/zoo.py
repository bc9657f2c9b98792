"""`bitskip zoo`: the trained models in the package."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bitskip.cli.options import DataOption, JsonOption, read_images

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
    from bitskip.cli.tables import byte_size, number, print_table

    print_table(
        "Models in the package",
        ["name", "test accuracy", "95 % interval", "file", "effective params", "computes in", "recipe", "epochs"],
        [
            [
                card.name,
                f"{card.test_accuracy:.2%}",
                f"{card.interval[0]:.1%} to {card.interval[1]:.1%}",
                byte_size(card.file_bytes),
                number(card.effective_parameters),
                card.activations,
                card.recipe,
                number(card.epochs),
            ]
            for card in cards
        ],
        left_columns=(0, 5, 6),
        notes=["`bitskip zoo path NAME` prints a model's file; `bitskip run $(bitskip zoo path NAME) IMAGE` runs it"],
    )


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
    as_json: JsonOption = False,
) -> None:
    """Test a model on the whole test set and compare with its card; another result than the card's ends with 1.

    Examples:

    - `bitskip zoo eval NAME`
    - `bitskip zoo eval NAME --data DIR --json`
    """
    from bitskip.runtime import Model, evaluate_model
    from bitskip.zoo import card_of, model_path

    card = card_of(name)
    model = Model.load(model_path(name))
    images = read_images(data, model.input_shape[0])
    found = evaluate_model(model, images.test_images, images.test_labels)
    comparable = len(images.test_images) == card.test_images and images.name == card.data
    agrees = found.correct == card.test_correct if comparable else None
    values: dict[str, Any] = {
        "name": name,
        "data": images.name,
        "test_images": found.count,
        "correct": found.correct,
        "test_accuracy": found.accuracy,
        "interval": list(found.interval),
        "card": card.test_accuracy,
        "agrees": agrees,
    }
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        verdict = {True: "as on its card", False: "NOT as on its card", None: "on other pictures than its card's"}
        typer.echo(
            f"{name}: {found.accuracy:.2%} of {found.count:,} pictures of {images.name} "
            f"({found.interval[0]:.2%} to {found.interval[1]:.2%}), {verdict[agrees]} ({card.test_accuracy:.2%})"
        )
    if agrees is False:
        raise typer.Exit(1)
