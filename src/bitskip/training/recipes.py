"""Recipes: how a network is trained, as validated YAML.

A recipe is one file; `overrides` change keys for the models whose name matches a pattern or that have a layer
of a precision, so that one recipe serves every precision and says where it treats them differently. Epoch
counts rescale the whole schedule, since everything in a recipe is a share of training.
"""

from __future__ import annotations

import copy
import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitskip.errors import RecipeError, nearest
from bitskip.files import read_text
from bitskip.spec import PRECISIONS, NetworkSpec

if TYPE_CHECKING:
    from bitskip.nn.baselines import Baseline

_Strict = ConfigDict(extra="forbid", frozen=True)
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=8)]


class AugmentationSettings(BaseModel):
    """Random changes of a training picture."""

    model_config = _Strict

    crop: int = Field(4, ge=0, description="padding before a random crop, in pixels; 0 for no crop")
    padding: Literal["zero", "reflect"] = Field("zero", description="what the crop sees beyond the edge")
    flip: Literal["none", "random", "alternating"] = Field("random", description="left-right mirroring")
    cutout: int = Field(0, ge=0, description="side of a blanked-out square, in pixels; 0 for none")
    jpeg: Share = Field(0.0, description="share of pictures shown as JPEG left them, at qualities 40 to 95")


class LatentSettings(BaseModel):
    """How the latent weights of 1-bit layers are trained."""

    model_config = _Strict

    optimizer: Literal["adam", "bop"] = Field("adam", description="adam, or bop (Helwegen et al. 2019)")
    learning_rate: float = Field(1e-3, gt=0, description="peak rate")
    weight_decay: float = Field(0.0, ge=0, description="L2 on the latent weights, coupled as in Adam")
    clip: float = Field(1.0, gt=0, description="latent weights are kept within +/- this")
    standardise: bool = Field(False, description="sign of (w - mean) / std per output channel (IR-Net)")
    freeze: float = Field(
        0.0, description="last share of training in which signs stay as they are", ge=0, le=1
    )
    bop_gamma: float = Field(1e-4, gt=0, description="Bop: share of the new gradient in its average")
    bop_threshold: float = Field(1e-8, ge=0, description="Bop: a sign flips beyond this average")


class DistillationSettings(BaseModel):
    """Learning from a teacher's outputs (Hinton et al. 2015)."""

    model_config = _Strict

    weight: float = Field(0.0, ge=0, le=1, description="share of the teacher's term in the loss; 0 for none")
    temperature: float = Field(4.0, gt=0, description="softens both outputs")
    views: Literal["student", "original"] = Field(
        "student",
        description="which pictures the teacher is asked about: those that the student is shown, at every "
        "step; or the original ones and their mirror images at full size, once",
    )


_EARLIER_KEYS = {"low_resolution", "low_resolution_size"}


class Recipe(BaseModel):
    """All settings of one training run."""

    model_config = _Strict

    name: str = Field(description="what `--recipe` calls it")
    source: str = Field("", description="where the settings come from")
    epochs: int = Field(100, ge=1, description="passes over the training pictures")
    batch_size: int = Field(128, ge=1, description="pictures a step, on each device")
    validation_images: int = Field(5000, ge=0, description="held out of the training set; at most a tenth")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="for all but 1-bit weights")
    learning_rate: float = Field(1e-3, gt=0, description="peak rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of sgd")
    weight_decay: float = Field(0.0, ge=0, description="L2 on conv and linear weights, coupled")
    l1: float = Field(0.0, ge=0, description="L1 on all conv and linear weights")
    schedule: Literal["constant", "cosine", "linear", "triangular"] = Field(
        "constant",
        description="rate over training: constant; cosine or linear to 0; triangular: up, then down",
    )
    warmup: float = Field(0.0, description="share of training in which the rate rises from 0", ge=0, le=1)
    dropout: float = Field(0.0, description="probability, inside residual blocks", ge=0, lt=1)
    label_smoothing: float = Field(0.0, description="share of the target spread over all classes", ge=0, lt=1)
    zero_gamma: bool = Field(False, description="start each block's last BN at 0 where a shortcut stands")
    whitening: bool = Field(False, description="start the stem as a whitening of training patches")
    ema: float = Field(
        0.0, description="decay a step of averaged weights that are evaluated; 0 for none", ge=0, lt=1
    )
    resolution: tuple[tuple[Share, Pixels], ...] = Field(
        (),
        description="smaller pictures at first: [share of training, pixels] one after another, the rest at "
        "full size",
    )
    real_weights: float = Field(
        0.0, description="first share of training with real instead of 1-bit weights (two steps)", ge=0, le=1
    )
    reestimate_batches: int = Field(
        0, ge=0, description="batches for BN statistics after training; 0 for none"
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    latent: LatentSettings = LatentSettings()
    distillation: DistillationSettings = DistillationSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_keys(cls, values: Any) -> Any:
        """Take what files of earlier runs have: `low_resolution`, a share, and `low_resolution_size`."""
        if not isinstance(values, dict) or not _EARLIER_KEYS & set(values):
            return values
        kept = {key: value for key, value in values.items() if key not in _EARLIER_KEYS}
        if not kept.get("resolution") and values.get("low_resolution"):  # it came before them even then
            kept["resolution"] = [(values["low_resolution"], values.get("low_resolution_size", 24))]
        return kept

    @model_validator(mode="after")
    def _check_resolution(self) -> Recipe:
        total = sum(share for share, _ in self.resolution)
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of resolution add up to {total:g}, expected at most 1")
        return self

    def picture_size(self, progress: float) -> int | None:
        """Return the size of training pictures at `progress` (0..1 of training), or None for their own."""
        end = 0.0
        for share, pixels in self.resolution:
            end += share
            if progress < end - 1e-9:  # 0.1 + 0.2 is no more than 0.3
                return pixels
        return None

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `load_recipe` reads."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def _bundled() -> Any:
    return files("bitskip.training").joinpath("recipes")


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    return tuple(
        sorted(p.name.removesuffix(".yaml") for p in _bundled().iterdir() if p.name.endswith(".yaml"))
    )


def load_recipe(
    recipe: str, model: str | NetworkSpec | Baseline = "", changes: dict[str, Any] | None = None
) -> Recipe:
    """Read a recipe by name or path and settle it for one model.

    Args:
        recipe: a name in the package (`paper`, ...) or the path of a YAML file.
        model: chooses among the recipe's overrides; a name alone has no precisions.
        changes: keys that take precedence, dotted for the inner ones (`latent.clip`).

    Raises:
        RecipeError: for an unknown recipe or key, or a value out of range.
    """
    name, precisions = model, frozenset[str]()
    if isinstance(model, NetworkSpec):
        name, precisions = model.name, frozenset(layer.precision for layer in model.iter_layers())
    elif not isinstance(model, str):
        name, precisions = model.name, model.precisions
    values = _read(recipe)
    overrides = values.pop("overrides", [])
    if not isinstance(overrides, list):
        raise RecipeError(f"recipe '{recipe}': overrides must be a list of entries")
    plain = copy.deepcopy(values)
    for entry in overrides:
        allowed = {"models", "precisions", "set"}
        if not isinstance(entry, dict) or "set" not in entry or len(entry) < 2 or not set(entry) <= allowed:
            raise RecipeError(
                f"recipe '{recipe}': an override needs 'set' and one or both of 'models' and 'precisions', "
                f"got {entry!r}"
            )
        # A key that does not exist is an error whichever model is trained, so each override is tried.
        tried = copy.deepcopy(plain)
        _merge(tried, entry["set"])
        _settle(recipe, tried)
        wanted = _listed(entry.get("precisions", []))
        for precision in wanted:
            if precision not in PRECISIONS:
                raise RecipeError(
                    f"recipe '{recipe}': unknown precision '{precision}' in an override, expected some of "
                    f"{', '.join(PRECISIONS)}"
                )
        patterns = _listed(entry.get("models", []))
        if precisions & set(wanted) or any(fnmatch.fnmatchcase(str(name), p) for p in patterns):
            _merge(values, entry["set"])
    for key, value in (changes or {}).items():
        if key in _EARLIER_KEYS:
            raise RecipeError(f"unknown key '{key}'; it is now resolution, e.g. resolution=[[0.4,24]], or []")
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested)
    return _settle(recipe, values)


def recipe_changes(recipe: Recipe, model: NetworkSpec | Baseline) -> dict[str, Any]:
    """Return the keys, dotted, in which `recipe` differs from the package's recipe of its name for `model`.

    The number of epochs is no change: it rescales the schedule. A recipe of one's own is compared with one
    that sets nothing.
    """
    known = recipe.name in recipe_names()
    plain = load_recipe(recipe.name, model) if known else Recipe(name=recipe.name)
    stock = _dotted(plain.model_dump(mode="json"))
    own = _dotted(recipe.model_dump(mode="json"))
    return {k: v for k, v in own.items() if v != stock[k] and k not in ("epochs", "source")}


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _listed(value: Any) -> list[str]:
    """Return the words of a list, or of one word."""
    return [str(word) for word in (value if isinstance(value, list) else [value])]


def _settle(recipe: str, values: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"recipe '{recipe}': {_first(error)}") from None


def _read(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read recipe '{recipe}': {error}") from None
    elif recipe in recipe_names():
        text = _bundled().joinpath(f"{recipe}.yaml").read_text(encoding="utf-8")
    else:
        raise RecipeError(
            f"unknown recipe '{recipe}', "
            f"expected one of {', '.join(recipe_names())} or the path of a YAML file"
            + nearest(recipe, recipe_names())
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe '{recipe}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"recipe '{recipe}' must be a mapping of keys to values")
    return values


def _merge(values: dict[str, Any], update: Any) -> None:
    if not isinstance(update, dict):
        raise RecipeError(f"a recipe's 'set' must be a mapping of keys to values, got {update!r}")
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = dict(value) if isinstance(value, dict) else value


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] == "value_error":  # from a validator of our own: a sentence as it is
        return str(problem["ctx"]["error"])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        inner: Any = Recipe
        for part in problem["loc"][:-1]:
            inner = inner.model_fields[part].annotation
        return f"unknown key '{where}'{nearest(str(problem['loc'][-1]), inner.model_fields)}"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"
