"""Write `src/bitskip/study/kept.json` from full-length studies: `python tools/kept_results.py`."""

from pathlib import Path

from bitskip.files import write_text
from bitskip.results.study import Results
from bitskip.study.kept import summary_json

ROOT = Path(__file__).parent.parent
STUDIES = ("paper", "paper-no-gradient")  # folders of results/


def kept_text() -> str:
    """Return the text of the file."""
    return summary_json(Results.load(ROOT / "results" / name / "results.json") for name in STUDIES)


if __name__ == "__main__":
    write_text(ROOT / "src" / "bitskip" / "study" / "kept.json", kept_text())
