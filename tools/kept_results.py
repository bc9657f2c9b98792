"""Write `src/bitskip/study/kept.json` from full-length studies and runs of baselines.

python tools/kept_results.py
"""

from pathlib import Path

from bitskip.files import read_json, write_text
from bitskip.results.study import Results
from bitskip.study.kept import summary_json

ROOT = Path(__file__).parent.parent
STUDIES = ("paper", "paper-no-gradient")  # folders of results/


def kept_text() -> str:
    """Return the text of the file."""
    return summary_json(
        (Results.load(ROOT / "results" / name / "results.json") for name in STUDIES),
        [read_json(path) for path in (ROOT / "results" / "baselines").glob("*/result.json")],
    )


if __name__ == "__main__":
    write_text(ROOT / "src" / "bitskip" / "study" / "kept.json", kept_text())
