"""`report.html`: one file that holds the whole report, with its styles and figures inside.

The page is also well-formed XML (no named entities, every element closed), so that tests can parse it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files

from bitskip.report.baselines import baselines_table
from bitskip.report.charts import has_loss_curves
from bitskip.report.claims import FAILS, HOLDS, judge
from bitskip.report.findings import beside_table, findings
from bitskip.report.markdown import DIFFERENCES_NOTE, has_grid
from bitskip.report.puzzle import puzzle_text
from bitskip.report.runs import other_models, treatments
from bitskip.report.scale import caveats, facts
from bitskip.report.style import COLOURS, inline_svg
from bitskip.report.tables import (
    TextTable,
    claims_table,
    cost_table,
    other_models_table,
    paper_tables,
    runs_table,
    table3_check,
    treatments_table,
)
from bitskip.report.wording import NOT_RUN, listing
from bitskip.results.study import Results
from bitskip.study.paper import (
    CITATION,
    DATA_SET_CITATION,
    DEFINITION,
    FIGURES,
    PRECISION_NAMES,
    TABLE3_NOTE,
    TABLES,
)

_TITLE = "Which layers can be 1-bit, and which shortcuts can go?"


def report_html(results: Results, svgs: Mapping[str, str], missing_losses: Sequence[str]) -> str:
    """Return the page.

    Args:
        results: the study.
        svgs: the figures by name, as stand-alone SVG.
        missing_losses: names of loss figures whose runs are not among the results.
    """
    page = _Page(results, svgs, missing_losses)
    sections = [
        ("puzzle", "The puzzle of Table 3", page.puzzle, bool(treatments(results))),
        ("beside", "Four ways to the nine variants", page.beside, has_grid(results)),
        ("tables", "Tables 1 to 3", page.tables, has_grid(results)),
        ("claims", "Which of the paper’s orderings hold", page.claims, has_grid(results)),
        ("losses", "Validation losses", page.losses, has_grid(results) and has_loss_curves(results)),
        ("architectures", "The networks", page.architectures, True),
        ("cost", "What the nine variants cost", page.cost, True),
        ("baselines", "The networks that the paper compares with", page.baselines, _has_baselines(results)),
        ("training", "Training details", page.training, True),
        ("settings", "Settings, machine and versions", page.settings, True),
        ("sources", "Sources", page.sources, True),
    ]
    shown = [(name, title, write) for name, title, write, wanted in sections if wanted]
    return _frame(page.top([(name, title) for name, title, _ in shown]), shown)


def _frame(top: str, sections: Sequence[tuple[str, str, Callable[[], str]]]) -> str:
    light = " ".join(f"--{name}: {values[0]};" for name, values in COLOURS.items())
    dark = " ".join(f"--{name}: {values[1]};" for name, values in COLOURS.items())
    css = files("bitskip.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{write()}\n</section>'
        for name, title, write in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="color-scheme" content="light dark" />
<title>{escape(_TITLE)}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
@media print {{ :root {{ color-scheme: light; {light} }} }}
{css}</style>
</head>
<body>
<main>
{top}
{body}
<footer>Written by bitskip from <code>results.json</code> alone; <code>bitskip report results.json</code>
draws it again.</footer>
</main>
</body>
</html>
"""


class _Page:
    """The sections of the page, each as HTML."""

    def __init__(self, results: Results, svgs: Mapping[str, str], missing_losses: Sequence[str]) -> None:
        self.results = results
        self.svgs = svgs
        self.missing_losses = missing_losses

    def top(self, sections: Sequence[tuple[str, str]]) -> str:
        links = "\n".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in sections)
        found = "\n".join(f"<li>{escape(text)}</li>" for text in findings(self.results))
        return f"""<header>
<p class="kicker">ResNet14 on {escape(self.results.study.data.name)}: 1-bit layers by shortcut policy</p>
<h1>{escape(_TITLE)}</h1>
<p>Nine networks differ in two choices: which of their three stages have 1-bit weights, and which have
shortcuts. This page puts our runs beside the figures of the paper that asked the question.</p>
<ul class="findings">
{found}
</ul>
{self.accuracy() if has_grid(self.results) else ""}
<div class="scale">
{_paragraphs(caveats(self.results))}
</div>
{self.summary()}
<nav aria-label="Contents">
{links}
</nav>
</header>"""

    def beside(self) -> str:
        return _table(beside_table(self.results), titled=False)

    def settings(self) -> str:
        facts_list = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(self.results))
        return f'<dl class="facts">\n{facts_list}\n</dl>'

    def summary(self) -> str:
        if not has_grid(self.results):
            return ""
        verdicts = judge(self.results)
        states = {state: [v for v in verdicts if v.state == state] for state in (HOLDS, FAILS, NOT_RUN)}
        words = {
            HOLDS: ("holds", "hold"),
            FAILS: ("does not", "do not"),
            NOT_RUN: ("was not run in full", "were not run in full"),
        }
        parts = [f"{len(found)} {words[state][len(found) != 1]}" for state, found in states.items() if found]
        narrow = sum(verdict.narrow for verdict in verdicts)
        rests = "rests" if narrow == 1 else "rest"
        noise = f" {narrow} of these verdicts {rests} on a difference within noise." if narrow else ""
        link = '<a href="#claims">paper’s tables</a>'
        return f"<p>Of the {len(verdicts)} orderings in the {link}, {listing(parts)}.{noise}</p>"

    def tables(self) -> str:
        parts = [_table(table) for table in paper_tables(self.results)]
        parts.append(_note(f"Effective parameters: {DEFINITION}. {DIFFERENCES_NOTE}"))
        parts += [
            "<h3>Where Table 3 does not follow</h3>",
            _paragraphs([TABLE3_NOTE]),
            _table(table3_check()),
        ]
        if other_models(self.results):
            parts.append(_table(other_models_table(self.results)))
        return "\n".join(parts)

    def claims(self) -> str:
        return _table(claims_table(self.results), titled=False, prose=True)

    def accuracy(self) -> str:
        return self.figure(
            "accuracy_vs_effective_parameters",
            "Filled: our runs, at the width they were trained. Hollow: the paper’s nine points as printed, "
            "Table 3’s effective parameters among them. Labels name the shortcuts that are left.",
            "Test accuracy against effective parameters",
            wide=True,
        )

    def losses(self) -> str:
        parts = []
        for table in TABLES:
            name = f"figure{table.loss_figure}"
            title = f"The paper’s Figure {table.loss_figure}, {table.loss_caption}"
            if name in self.missing_losses:
                precision = PRECISION_NAMES[table.precision_policy]
                parts.append(f"<figure><figcaption>{escape(title)}: no {precision} network was run."
                             "</figcaption></figure>")  # fmt: skip
            else:
                parts.append(self.figure(name, title + ".", title))
        return f'<div class="pair">\n{"".join(parts)}\n</div>'

    def puzzle(self) -> str:
        text = puzzle_text(self.results)
        question = (
            "The paper’s fully binary networks reach 44 to 49%, far below what 1-bit weights with a "
            "straight-through estimator are known for. Two suspects were tried: sign without any gradient "
            "estimator, and coupled L2, which walks weights that get no gradient through zero."
        )
        figure = self.figure(
            "puzzle",
            "Validation accuracy and the share of 1-bit weights whose sign changed, after each epoch.",
            "Accuracy and sign flips by gradient estimator and L2",
            wide=True,
        )
        table = _table(treatments_table(self.results), titled=False)
        return "\n".join([_paragraphs([question, *text]), figure, table])

    def architectures(self) -> str:
        lead = (
            "Drawn from the specs. In the middle-only variants stages 1 and 3 lose their arcs, "
            "in the variants without shortcuts all stages do."
        )
        parts = [_paragraphs([lead])]
        for number, model, caption in FIGURES:
            text = f"The paper’s Figure {number}, {caption}: {model}."
            parts.append(self.figure(f"figure{number}", text, f"Architecture of {model}", wide=True))
        return "\n".join(parts)

    def cost(self) -> str:
        width = self.results.study.width
        parts = [_table(cost_table())]
        if width != 1:
            parts.append(_table(cost_table(width)))
        parts.append(
            _note(
                "Counted from the specs, for one picture. A MAC is one multiply-accumulate; those with 1-bit "
                "weights need no multiplication, but their activations are real. Weight memory is that of "
                "packed weights. Peak activations: in the naive executor every operation writes a new "
                "buffer; in place, the addition accumulates into the shortcut’s buffer. KiB is 1,024 bytes."
            )
        )
        return "\n".join(parts)

    def baselines(self) -> str:
        table = baselines_table(self.results)
        return "" if table is None else _table(table, titled=False)

    def training(self) -> str:
        study = self.results.study
        text = (
            f"Recipe {study.recipe}. The paper names Adam at 0.001, L2, dropout in the residual blocks, L1 "
            "for full precision with all shortcuts, and 100 epochs; it gives no values for L2, dropout and "
            "L1, no batch size, no augmentation and no rate schedule. Where the recipe is the paper’s, "
            "those are ours. Validation pictures are held out of the training set; the test set is used "
            "once, after the last epoch."
        )
        return _paragraphs([text]) + _table(runs_table(self.results), titled=False)

    def sources(self) -> str:
        return _paragraphs([CITATION, DATA_SET_CITATION])

    def figure(self, name: str, caption: str, description: str, wide: bool = False) -> str:
        svg = inline_svg(self.svgs[name], name, description)
        box = f'<div class="wide">{svg}</div>' if wide else svg
        return f"<figure>\n{box}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def _has_baselines(results: Results) -> bool:
    return baselines_table(results) is not None


def _paragraphs(texts: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(table: TextTable, titled: bool = True, prose: bool = False) -> str:
    columns = table.columns
    starts = [at == 0 or columns[at].group != columns[at - 1].group for at in range(len(columns))]
    grouped = any(column.group for column in columns)

    def classes(at: int, *more: str) -> str:
        names = ["text"] * columns[at].text + ["start"] * (grouped and starts[at])
        names += [name for name in more if name]
        return f' class="{" ".join(names)}"' if names else ""

    head = ""
    if grouped:
        cells = []
        for at, column in enumerate(columns):
            if not column.group:
                cells.append("<th></th>")
            elif starts[at]:
                span = 1
                while at + span < len(columns) and columns[at + span].group == column.group:
                    span += 1
                cells.append(f'<th class="group start" colspan="{span}">{escape(column.group)}</th>')
        head = f"<tr>{''.join(cells)}</tr>\n"
    headings = "".join(f"<th{classes(at)}>{escape(column.heading)}</th>" for at, column in enumerate(columns))
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{classes(at, _cell_class(columns[at].heading, cell))}>{_cell(cell)}</td>"
            for at, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    title = f"<h3>{escape(table.title)}</h3>\n" if titled else ""
    notes = "".join(_note(note) for note in table.notes)
    kind = "table prose" if prose else "table"
    return (
        f'{title}<div class="{kind}"><table>\n<thead>\n{head}<tr>{headings}</tr>\n</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{notes}"
    )


def _cell_class(heading: str, cell: str) -> str:
    if cell == NOT_RUN:
        return "missing"
    return "ours" if heading == "ours" else ""


def _cell(cell: str) -> str:
    """Return a cell's HTML: verdicts coloured, model names as code, powers of ten raised."""
    text = escape(cell)
    verdict = cell.partition(",")[0]
    if verdict in (HOLDS, FAILS):
        return f'<span class="tag {"holds" if verdict == HOLDS else "fails"}">{text}</span>'
    mantissa, power, exponent = text.partition("×10^")
    if power and exponent.isdigit():
        return f"{mantissa} × 10<sup>{exponent}</sup>"
    return f"<code>{text}</code>" if cell.startswith("resnet") and " " not in cell else text
