"""Recipes: what the files say, overrides, and unknown keys."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from bitskip.errors import RecipeError
from bitskip.files import read_json
from bitskip.spec import named_spec, resolve_spec
from bitskip.training import load_recipe, recipe_names
from bitskip.training.recipes import recipe_changes

RUNS = Path(__file__).parents[2] / "results" / "runs"


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_is_valid_for_every_precision(name: str) -> None:
    for model in ("resnet14-full-all", "resnet14-hybrid-none", "resnet14-binary-all", "resnet14-w1a1"):
        assert load_recipe(name, model).name == name


def test_paper_recipe_is_the_papers() -> None:
    recipe = load_recipe("paper", "resnet14-binary-all")
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs, recipe.l1) == ("adam", 1e-3, 100, 0.0)
    assert recipe.weight_decay > 0
    assert recipe.dropout > 0
    assert load_recipe("paper", "resnet14-full-all").l1 > 0
    assert load_recipe("paper", "resnet14-full-none").l1 == 0


def test_changes_win_over_overrides_and_reach_inner_keys() -> None:
    recipe = load_recipe("paper", "resnet14-full-all", {"l1": 0.5, "latent.clip": 1.5, "epochs": 3})
    assert (recipe.l1, recipe.latent.clip, recipe.epochs) == (0.5, 1.5, 3)
    assert recipe.latent.learning_rate == load_recipe("paper").latent.learning_rate


def test_a_recipe_says_how_it_differs_from_the_packages() -> None:
    spec = named_spec("resnet14-hybrid-all")
    assert recipe_changes(load_recipe("modern", spec, {"epochs": 3}), spec) == {}
    own = load_recipe("modern", spec, {"epochs": 3, "ema": 0.9, "latent.clip": 1.0})
    assert recipe_changes(own, spec) == {"ema": 0.9, "latent.clip": 1.0}
    mine = recipe_changes(own.model_copy(update={"name": "mine"}), spec)  # all that it sets
    assert mine["ema"] == 0.9
    assert mine["whitening"] is True
    assert "dropout" not in mine


@pytest.mark.parametrize("run", sorted(path.parent.name for path in RUNS.glob("*/recipe.yaml")))
def test_kept_runs_say_how_they_differ_from_todays_recipe(run: str) -> None:
    """A recipe's new defaults leave behind what earlier runs say of themselves."""
    result = read_json(RUNS / run / "result.json")
    spec = resolve_spec(str(RUNS / run / "spec.json"))
    changes = recipe_changes(load_recipe(str(RUNS / run / "recipe.yaml")), spec)
    if result["teacher"] is None:  # how it would be distilled makes no difference
        changes = {key: value for key, value in changes.items() if not key.startswith("distillation.")}
    assert result["changes"] == changes


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = load_recipe("paper", "resnet14-full-all")
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"latent.clipp": 1}, "unknown key 'latent.clipp'; did you mean 'clip'"),
        ({"dropout": 1.5}, "dropout: input should be less than 1, got 1.5"),
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1, got 0"),
        ({"schedule": "cosin"}, "schedule: input should be 'constant'"),
        ({"resolution": [[0.7, 16], [0.4, 24]]}, "shares of resolution add up to 1.1, expected at most 1"),
        ({"resolution": [[0.7, 4]]}, "resolution.0.1: input should be greater than or equal to 8, got 4"),
        ({"resolution": [[0.7]]}, "resolution.0.1: field required"),
        ({"low_resolution": 0}, r"unknown key 'low_resolution'; it is now resolution, e.g. .*, or \[\]"),
    ],
)
def test_bad_keys_and_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("paper", changes=change)


def test_pictures_grow_in_steps() -> None:
    def sizes(**changes: object) -> list[int | None]:
        recipe = load_recipe("paper", changes=changes)
        return [recipe.picture_size(epoch / 10) for epoch in range(10)]

    assert sizes() == 10 * [None]
    assert sizes(resolution=[[1.0, 16]]) == 10 * [16]
    steps = [[0.1, 12], [0.2, 16], [0.4, 24]]
    assert sizes(resolution=steps) == [12] + 2 * [16] + 4 * [24] + 3 * [None]


@pytest.mark.parametrize(
    ("earlier", "steps"),
    [
        ({"low_resolution": 0.4, "low_resolution_size": 16}, ((0.4, 16),)),
        ({"low_resolution": 0.0, "low_resolution_size": 24}, ()),
        ({"low_resolution": 0.4, "low_resolution_size": 24, "resolution": []}, ((0.4, 24),)),
        ({"low_resolution": 0.4, "low_resolution_size": 24, "resolution": [[0.5, 16]]}, ((0.5, 16),)),
    ],
)
def test_recipes_of_earlier_runs_keep_their_picture_sizes(
    tmp_path: Path, earlier: dict[str, object], steps: object
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "modern", **earlier}))
    assert load_recipe(str(path)).resolution == steps


def test_every_part_of_modern_can_be_switched_off() -> None:
    off = {
        "whitening": False,
        "zero_gamma": True,
        "schedule": "constant",
        "warmup": 0,
        "label_smoothing": 0,
        "ema": 0,
        "resolution": (),
        "real_weights": 0,
        "reestimate_batches": 0,
        "weight_decay": 0,
        "augmentation.flip": "none",
        "augmentation.crop": 0,
        "augmentation.padding": "zero",
        "augmentation.cutout": 0,
        "latent.standardise": False,
        "latent.freeze": 0,
        "distillation.weight": 0,
    }
    for model in ("resnet14-full-all", "resnet14-binary-all", "resnet14-w1a1"):
        recipe = load_recipe("modern", model, off)
        for key, value in off.items():
            found: object = recipe
            for part in key.split("."):
                found = getattr(found, part)
            assert found == value, key


def test_a_wrong_key_in_an_override_for_another_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "overrides": [{"models": "*-w1a1*", "set": {"emma": 0.9}}]}))
    with pytest.raises(RecipeError, match="mine.yaml': unknown key 'emma'; did you mean 'ema'"):
        load_recipe(str(path), "resnet14-full-all")


def test_overrides_know_a_spec_by_its_layers(tmp_path: Path) -> None:
    for model in ("resnet14-hybrid-all", "resnet14-binary-none", "resnet14-w1a1", "resnet14-full-all"):
        named = load_recipe("modern", model)
        mine = dataclasses.replace(named_spec(model), name="mine")
        assert load_recipe("modern", mine) == load_recipe("modern", named_spec(model)) == named
    one = {"stage2.block1.conv1": "w1"}
    mostly_real = dataclasses.replace(named_spec("resnet14-full-all"), layer_precision=one)
    assert load_recipe("modern", mostly_real).ema == 0
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "overrides": [{"precisions": "w2", "set": {"ema": 0.9}}]}))
    with pytest.raises(RecipeError, match="unknown precision 'w2' in an override, expected some of fp32"):
        load_recipe(str(path))


def test_keys_in_the_docs_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row[1].strip().startswith("`bitskip ")]  # a table of commands
    keys = [key for row in rows for key in re.findall(r"`([a-z0-9_.]+)`", row[2]) if key != "bop"]
    assert len(keys) >= 20
    plain = load_recipe("modern").model_dump()
    for key in keys:
        value: object = plain
        for part in key.split("."):
            assert isinstance(value, dict)
            assert part in value, key
            value = value[part]


def test_unknown_recipe_and_malformed_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'papr'.*did you mean 'paper'"):
        load_recipe("papr")
    path = tmp_path / "bad.yaml"
    path.write_text("epochs: [1,\n")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(str(path))
    path.write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(RecipeError, match="must be a mapping"):
        load_recipe(str(path))
    path.write_text(yaml.safe_dump({"name": "x", "overrides": [{"models": "*"}]}))
    with pytest.raises(RecipeError, match="needs 'set' and one or both of"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="cannot read recipe"):
        load_recipe(str(tmp_path / "nowhere.yaml"))
