"""score --lines: the scores of many texts, and those of all of them together."""

from collections.abc import Iterator

from checkpoints.messages import abbreviated
from cli.options import Options
from utils import Model
from views import screen, writing
from views.score import (
    Request,
    as_json,
    counts_in_words,
    definition,
    exp_as_text,
    is_greedy,
    measures,
    nll_of,
    score_request,
    total_lines,
    totals,
)
from views.texts import Line

COUNTS = ("nll", "n_tokens", "n_words", "n_bytes")
HEADING = f"{'line':>6}  {'tokens':>6}  {'nll':>10}  {'perplexity':>11}  greedy  text"
TEXT_COLUMN = HEADING.index("text")


def show_score_lines(model: Model, requests: list[Request], lines: list[Line], options: Options, seed: int) -> None:
    """Print a line or a JSON object per text, and then the totals."""
    stride = options.stride or model.n_ctx
    sums = dict.fromkeys(COUNTS, 0)
    if not options.json:
        writing.write_lines([screen.paint(HEADING, "dim")])
    pairs = list(zip(requests, lines, strict=True))
    for request, line in writing.with_progress_bar(pairs, len(pairs), "scoring", "text"):
        scores = list(score_request(request, model, stride))
        of_text = totals([logprob for logprob, _ in scores], line.text)
        sums = {name: sums[name] + of_text[name] for name in COUNTS}
        if options.json:
            writing.write_json(record_of(line, as_json(scores, request, model, line.text, stride)))
        else:
            writing.write_lines([row_of(line, request, scores, of_text)])
    together = measures(**sums)
    if options.json:
        writing.write_json({"model": model.name, "n_texts": len(lines), **together})
    else:
        writing.write_lines(end_of(together, len(lines), model, requests, stride))


def record_of(line: Line, record: dict) -> dict:
    given = {} if line.given is None else {"given": line.given}
    return {"line": line.number, **given, "text": line.text, **record}


def row_of(line: Line, request: Request, scores: list[tuple], sums: dict) -> str:
    """Return the line of a text; "greedy" only applies to a continuation."""
    greedy = "" if request.context is None else "yes" if is_greedy(scores) else "no"
    perplexity = exp_as_text(nll_of(scores) / len(scores))
    numbers = f"{line.number:6}  {sums['n_tokens']:6}  {sums['nll']:10.4f}  {perplexity:>11}  {greedy:6}"
    text = f"{line.given or ''}{line.text}"
    return f"{numbers}  {screen.cut(screen.printable(text), screen.width() - TEXT_COLUMN)}"


def end_of(sums: dict, n_texts: int, model: Model, requests: list[Request], stride: int) -> Iterator[str]:
    """Yield the totals of all texts. Each is scored on its own."""
    yield ""
    yield f"{screen.counted(n_texts, 'text')}, {counts_in_words(sums)}"
    yield from total_lines(sums)
    yield ""
    longest = max(requests, key=lambda request: len(request.ids))
    how = definition(model, longest, stride)
    yield from screen.wrap(f"Each text was scored with {abbreviated(model.name)} {how}.", screen.width())
