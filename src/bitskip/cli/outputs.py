"""Names of files to write: none that says another format, or that is the file being read."""

from __future__ import annotations

from pathlib import Path

from bitskip.errors import RunError

# Endings of other formats, and how to come by them.
_OTHER_FORMATS = {
    ".onnx": "export it with `bitskip export {packed} --to onnx -o {out}`",
    ".c": "export it with `bitskip export {packed} --to c99 -o {folder}`",
    ".h": "export it with `bitskip export {packed} --to c99 -o {folder}`",
    ".tflite": "bitskip writes no TFLite: converters read `bitskip export {packed} --to onnx -o {onnx}`",
    ".pt": "a run's weights.safetensors holds its weights for torch",
    ".pth": "a run's weights.safetensors holds its weights for torch",
    ".safetensors": "a run's weights.safetensors holds its weights for torch",
}


def refuse_name_of_packed(out: str | Path | None) -> None:
    """Raise RunError if the name of a packed file to write is one of another format."""
    path = Path(out or "")
    if path.suffix.lower() in _OTHER_FORMATS:
        packed = path.with_suffix(".bitskip")
        advice = _OTHER_FORMATS[path.suffix.lower()].format(
            packed=packed, out=path, folder=path.with_suffix(""), onnx=path.with_suffix(".onnx")
        )
        raise RunError(f"'{out}' is not a name of a packed file; pack to {packed}, then {advice}")


def refuse_name_of_exported(out: Path, form: str) -> None:
    """Raise RunError if what is exported would have the name of a packed file."""
    if out.suffix.lower() == ".bitskip":
        raise RunError(
            f"'{out}' is the name of a packed file, expected another one for --to {form}, such as "
            f"{out.with_suffix('.onnx' if 'onnx' in form else '.npz' if form == 'npz' else '')}"
        )
