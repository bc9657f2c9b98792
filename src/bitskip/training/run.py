"""One training run in one folder: start, resume, evaluate once, leave weights and a result behind.

A run's folder holds `run.json` (what was asked for), `spec.json`, `recipe.yaml`, `checkpoints/last.ckpt`
(every epoch), `logs/` (CSV and TensorBoard) and, once done, `weights.safetensors` and `result.json`.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from bitskip.data import ImageSet
from bitskip.data.batches import Batches, Normalisation, held_out_count, split_validation
from bitskip.errors import DataError, FileFormatError, InterruptedRunError, RunError
from bitskip.files import file_digest, read_json, require_writable, write_bytes, write_json, write_text
from bitskip.nn import binary_layers, build
from bitskip.nn.baselines import Baseline
from bitskip.nn.batch_norm import reestimate_batch_norm
from bitskip.nn.narrow import onednn_where_safe
from bitskip.nn.torchvision_ops import ensure_torchvision_ops
from bitskip.spec import NetworkSpec
from bitskip.training.accuracy import evaluate
from bitskip.training.folder import (
    EARLIER_RULE,
    RunResult,
    weights_file,
)
from bitskip.training.hardware import Hardware, merged, versions
from bitskip.training.initial import prepare
from bitskip.training.module import Classifier, Splits, plain_batches
from bitskip.training.recipes import Recipe, recipe_changes
from bitskip.training.start import epochs_of, file_of, load_teacher, name_of, weights_of
from bitskip.training.teacher import outputs_of

ensure_torchvision_ops()
import lightning as L  # noqa: E402  (Lightning imports torchvision)
from lightning.pytorch.callbacks import Checkpoint  # noqa: E402

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_CHECKPOINT_SECONDS = 10.0  # between checkpoints, where an epoch takes less

_TEST_BATCH = {"cpu": 64}  # pictures whose activations caches hold; 512 elsewhere


def train(
    spec: NetworkSpec | Baseline,
    recipe: Recipe,
    images: ImageSet,
    out: Path | str,
    *,
    seed: int = 0,
    resume: bool = False,
    hardware: Hardware | None = None,
    teacher: Path | str | None = None,
    warm_start: Path | str | None = None,
    keep_better_start: bool = False,
    progress_bar: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> RunResult:
    """Train one network and evaluate its last epoch once on the test set.

    Args:
        spec: the network. A baseline has no dropout, whatever the recipe says.
        recipe: settled for it.
        images: the data set.
        out: the run's folder.
        seed: of initial weights, order and augmentation.
        resume: continue from the folder's checkpoint; a finished run is returned as it is.
        hardware: devices and arithmetic.
        teacher: run folder of the network to distil from.
        warm_start: run folder whose weights to start from, where names and shapes agree; or `zoo:NAME`, or a
            `.bitskip` file, whose weights are then unpacked.
        keep_better_start: deliver the network as it started if it does better on the held-out pictures: few
            pictures can teach little to one that knows their classes, and may take from it.
        progress_bar: show Lightning's progress bar.
        on_epoch: called after each epoch with its history entry.

    Raises:
        RunError: if `out` holds another run, cannot be written, or the run was interrupted.
        DataError: if the data does not fit the spec.
    """
    out, teacher = Path(out), None if teacher is None else Path(teacher)
    _check_data(spec, images)
    if not 0 <= seed < 2**32:
        raise RunError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    if teacher is not None and not recipe.distillation.weight:
        raise RunError(
            f"recipe '{recipe.name}' does not learn from a teacher: its distillation.weight is 0; set it "
            "(--set distillation.weight=0.7), choose a recipe that does (modern), or leave out the teacher"
        )
    hardware = hardware or Hardware()
    require_writable(out)
    asked = _asked(spec, recipe, images, seed, teacher, warm_start)
    checkpoint = out / "checkpoints" / "last.ckpt"
    _check_folder(out, asked, resume, checkpoint)
    if (out / "result.json").is_file():
        return RunResult.load(out)

    L.seed_everything(seed, workers=True, verbose=False)
    splits = _split(images, recipe)
    model = build(spec, recipe.dropout) if isinstance(spec, NetworkSpec) else spec.build()
    model = model.to(memory_format=torch.channels_last)
    head = ("head.",) if isinstance(spec, NetworkSpec) else spec.head
    start = None if warm_start is None else weights_of(warm_start, splits, recipe, images, head)
    prepare(model, recipe, splits, warm_start=start)
    network = None if teacher is None else load_teacher(teacher, spec, images)
    precision = hardware.lightning_precision(model)
    trainer = _trainer(out, recipe, hardware, precision, progress_bar)
    teaching = _teaching(network, trainer, recipe, splits, str(asked["teacher_weights"]), progress_bar)
    module = Classifier(
        model,
        recipe,
        splits,
        seed,
        teaching,
        on_epoch,
        compiled=hardware.compile,
        captured=hardware.capture,
        session=lambda: {"precision": str(precision), **versions()},
    )
    if trainer.is_global_zero:
        write_json(out / "run.json", asked | {"data_source": images.source})  # where `pack` finds it again
        if isinstance(spec, NetworkSpec):
            write_text(out / "spec.json", spec.to_json() + "\n")
        write_text(out / "recipe.yaml", recipe.to_yaml())
    module.checkpoint = checkpoint
    as_started = copy.deepcopy(module.delivered) if keep_better_start and start is not None else None
    with onednn_where_safe(model):
        _fit(trainer, module, checkpoint if checkpoint.is_file() else None, out)

    device = trainer.strategy.root_device
    delivered, start_kept = _delivered(module, as_started, splits, recipe, seed, device)
    size = _TEST_BATCH.get(device.type, 512)
    test = Batches(images.test_images, images.test_labels, splits.normalisation, size, device=device)
    accuracy, loss = evaluate(delivered, test)
    sessions = merged([*module.earlier_sessions, module.session()])
    result = RunResult(
        model=spec.name,
        seed=seed,
        recipe=recipe.name,
        epochs=recipe.epochs,
        data=images.name,
        train_images=len(splits.train[0]),
        validation_images=len(splits.validation[0]),
        test_images=len(images.test_images),
        test_accuracy=accuracy,
        test_loss=loss,
        test_rule=images.test_rule,
        seconds=round(sum(entry["seconds"] for entry in module.history), 1),
        history=module.history,
        precision=sessions.pop("precision"),
        versions=sessions,
        teacher=asked["teacher"],
        warm_start=asked["warm_start"],
        epochs_before=0 if warm_start is None else epochs_of(warm_start),
        start_kept=start_kept,
        changes=recipe_changes(recipe, spec),
    )
    if trainer.is_global_zero:
        _leave(out, spec, recipe, images, splits, delivered.to("cpu"), result)
    return result


# -- the pieces ---------------------------------------------------------------------------------------


def _kind_of(spec: NetworkSpec | Baseline) -> str:
    """Return the word under which a run's files hold what was trained."""
    return "spec" if isinstance(spec, NetworkSpec) else "baseline"


def _asked(
    spec: NetworkSpec | Baseline,
    recipe: Recipe,
    images: ImageSet,
    seed: int,
    teacher: Path | None,
    warm_start: Path | str | None,
) -> dict[str, Any]:
    """Return what makes a run this one: what must be the same when it is resumed."""
    return {
        _kind_of(spec): spec.to_dict(),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "data": images.name,
        "train_images": len(images.train_images),
        "test_rule": images.test_rule,
        "teacher": None if teacher is None else teacher.name,
        "warm_start": None if warm_start is None else name_of(warm_start),
        "teacher_weights": None if teacher is None else file_digest(weights_file(teacher)),
        "warm_start_weights": None if warm_start is None else file_digest(file_of(warm_start)),
    }


def _teaching(
    network: nn.Module | None,
    trainer: Any,
    recipe: Recipe,
    splits: Splits,
    weights: str,
    progress_bar: bool,
) -> nn.Module | torch.Tensor | None:
    """Return what the module learns from: the teacher, or what it says of each original picture."""
    if network is None or recipe.distillation.views != "original":
        return network
    with onednn_where_safe(network):
        return outputs_of(
            network,
            Batches(*splits.train, splits.normalisation, 256, device=trainer.strategy.root_device),
            weights=weights,
            mirrored=recipe.augmentation.flip != "none",
            arithmetic=trainer.precision_plugin.forward_context,
            progress_bar=progress_bar,
        )


def _delivered(
    module: Classifier,
    as_started: nn.Module | None,
    splits: Splits,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, bool]:
    """Return the network that a run delivers, on `device`, and whether it is the one it started as."""
    trained = _binarised(module.delivered).to(device)
    if recipe.reestimate_batches > module.estimated_from:  # else the last validation's are these
        plain = plain_batches(splits, recipe, seed, device)
        reestimate_batch_norm(trained, plain, recipe.reestimate_batches)
    if as_started is None or not len(splits.validation[0]):
        return trained, False
    size = _TEST_BATCH.get(device.type, 512)
    held_out = Batches(*splits.validation, splits.normalisation, size, device=device)
    _binarised(as_started).to(device)
    if _goodness(as_started, held_out) > _goodness(trained, held_out):
        return as_started, True
    return trained, False


def _leave(
    out: Path,
    spec: NetworkSpec | Baseline,
    recipe: Recipe,
    images: ImageSet,
    splits: Splits,
    delivered: nn.Module,
    result: RunResult,
) -> None:
    """Write the weights with what they need beside them, then the result, which says that all is there."""
    state = {name: value.contiguous() for name, value in delivered.state_dict().items()}
    metadata = {
        _kind_of(spec): spec.to_json(),
        **splits.normalisation.to_metadata(),
        "class_names": "\n".join(images.class_names),
        "standardise": str(recipe.latent.standardise).lower(),
    }
    write_bytes(out / "weights.safetensors", save(state, metadata))
    write_json(out / "result.json", dataclasses.asdict(result))


def _binarised(network: nn.Module) -> nn.Module:
    """Return `network` as it is delivered: 1-bit, though a recipe may leave real weights on to the end."""
    for layer in binary_layers(network).values():
        layer.real_weights = False
    return network


def _goodness(network: nn.Module, pictures: Batches) -> tuple[float, float]:
    """Return what to compare networks by: accuracy, then how low the loss is."""
    accuracy, loss = evaluate(network, pictures)
    return accuracy, -loss


def _check_data(spec: NetworkSpec | Baseline, images: ImageSet) -> None:
    if images.classes != spec.classes:
        raise DataError(
            f"{images.name} has {images.classes} classes, but '{spec.name}' has {spec.classes} outputs; "
            f'name other data, or a spec file with "classes": {images.classes}'
        )
    if images.image_size != spec.input_size:
        raise DataError(
            f"{images.name} has pictures of {images.image_size} pixels, but '{spec.name}' takes "
            f'{spec.input_size}; name other data, or a spec file with "input_size": {images.image_size}'
        )
    channels = int(images.train_images.shape[-1])
    if channels != spec.input_channels:
        raise DataError(
            f"{images.name} has pictures of {channels} channels, but '{spec.name}' takes "
            f'{spec.input_channels}; name other data, or a spec file with "input_channels": {channels}'
        )


def _check_folder(out: Path, asked: dict[str, Any], resume: bool, checkpoint: Path) -> None:
    before = out / "run.json"
    if not before.is_file():
        return
    if not resume and (checkpoint.is_file() or (out / "result.json").is_file()):
        raise RunError(f"{out} already holds a run; continue it with --resume, or choose another --out")
    known = read_json(before)
    if known.get("test_rule", "") != asked["test_rule"] and known.get("data") == asked["data"]:
        then, now = known.get("test_rule") or EARLIER_RULE, asked["test_rule"] or "those of a test folder"
        raise RunError(
            f"{out} was begun when other pictures were the test pictures ({then}; now: {now}), so its test "
            "would show pictures that it was trained on; choose another --out and train anew"
        )
    # Keys that runs and recipes have got since this one began stand at what they did before: nothing.
    try:
        known = {"teacher_weights": asked["teacher_weights"]} | known
        known = {"warm_start_weights": asked["warm_start_weights"]} | known
        known = {"test_rule": asked["test_rule"]} | known
        known.pop("data_source", None)  # the same data may lie elsewhere by now
        known["recipe"] = Recipe.model_validate(known["recipe"]).model_dump(mode="json")
    except (ValidationError, KeyError, TypeError):
        raise FileFormatError(f"{before} says of no run how it was started; choose another --out") from None
    if resume and known != asked:
        _point_to_more_epochs(out, asked, known)
        differing = ", ".join(sorted(k for k in asked if known.get(k) != asked[k]))
        raise RunError(
            f"{out} holds a run with another {differing}; resume it with the settings in {before}, "
            "or choose another --out"
        )


def _point_to_more_epochs(out: Path, asked: dict[str, Any], known: dict[str, Any]) -> None:
    """Say how a finished run is trained on, where nothing but its epochs was asked for otherwise."""
    done, wanted = known["recipe"]["epochs"], asked["recipe"]["epochs"]
    same = {**known, "recipe": {**known["recipe"], "epochs": wanted}} == asked
    if (out / "result.json").is_file() and same and wanted > done:
        raise RunError(
            f"{out} is finished after {done} epochs, to which its schedule was cut; train on from its "
            f"weights with --warm-start {out} --epochs {wanted - done} and another --out, or "
            f"train all {wanted} anew"
        )


def _split(images: ImageSet, recipe: Recipe) -> Splits:
    held_out = held_out_count(recipe.validation_images, len(images.train_images))
    train, validation = split_validation(images.train_images, images.train_labels, held_out)
    return Splits(
        (images.train_images[train], images.train_labels[train]),
        (images.train_images[validation], images.train_labels[validation]),
        Normalisation.of(images.train_images),
    )


class _LastCheckpoint(Checkpoint):  # type: ignore[misc]  # Lightning is untyped here
    """Keeps the last epoch's state in one file: after every epoch, or on a GPU after some seconds of them."""

    def __init__(self, path: Path) -> None:
        self.path, self._saved = path, 0.0

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Save, unless it was done a moment ago."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        spacing = _CHECKPOINT_SECONDS if module.device.type != "cpu" else 0.0
        if last or time.monotonic() - self._saved >= spacing:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()


def _trainer(out: Path, recipe: Recipe, hardware: Hardware, precision: Any, progress_bar: bool) -> Any:
    from lightning.pytorch.callbacks.progress import TQDMProgressBar
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    callbacks: list[Any] = [_LastCheckpoint(out / "checkpoints" / "last.ckpt")]
    if progress_bar:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    # A log that exists is emptied when its logger opens, so each session of a run writes one of its own.
    sessions = len(list((out / "logs").glob("csv*")))
    try:
        return L.Trainer(
            max_epochs=recipe.epochs,
            accelerator=hardware.accelerator,
            devices=hardware.devices if hardware.devices == "auto" else int(hardware.devices),
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            precision=precision,
            default_root_dir=out,
            logger=[
                CSVLogger(out, name="logs", version=f"csv-{sessions + 1}" if sessions else "csv"),
                TensorBoardLogger(out, name="logs", version="tensorboard"),
            ],
            callbacks=callbacks,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=20,
            deterministic=False,
        )
    except (ValueError, MisconfigurationException) as error:
        said = " ".join(str(error).split())
        raise RunError(
            f"no training with accelerator '{hardware.accelerator}', devices '{hardware.devices}', strategy "
            f"'{hardware.strategy}' and precision '{precision}': {said}"
        ) from None


def _fit(trainer: Any, module: Classifier, checkpoint: Path | None, out: Path) -> None:
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        raise InterruptedRunError(f"interrupted; continue with --resume --out {out}") from None
    except (OSError, RuntimeError) as error:
        reason = _full_disk(error)
        if reason is None:
            raise
        raise RunError(
            f"cannot write to {out}: {reason}; make room there and continue with --resume --out {out}"
        ) from None
    if trainer.interrupted:
        raise InterruptedRunError(f"interrupted; continue with --resume --out {out}")


def _full_disk(error: OSError | RuntimeError) -> str | None:
    """Return why a logger or a checkpoint could not be written, or None if `error` is of something else."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in _DISK_ERRORS else None
    # torch's writer of checkpoints says no more than which bytes it could not place.
    wrote = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
    return os.strerror(errno.ENOSPC) if wrote else None
