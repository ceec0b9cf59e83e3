"""The pictures of a run: `loss.png`, and `report.html`, one page that needs no other file."""

import base64
import html
import logging
import math
from pathlib import Path
from typing import Any

from jobs import metrics

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}table{border-collapse:collapse;margin:1rem 0}
td,th{text-align:left;padding:.2rem 1.5rem .2rem 0;border-bottom:
1px solid #ddd;vertical-align:top}img{width:100%}.note{color:#666}"""


def write(folder: Path, summary: dict[str, Any]) -> None:
    """Draw a run's `metrics.jsonl` and tell its summary."""
    lines = metrics.read(folder / "metrics.jsonl")
    draw(folder / "loss.png", lines, summary["bits_per_byte"])
    (folder / "report.html").write_text(page(summary, (folder / "loss.png").read_bytes()))


def draw(path: Path, lines: list[dict[str, Any]], bits: dict[str, float]) -> None:
    """Training loss in bits per byte by step, beside what counting achieves."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns at length where there is no home
    import matplotlib

    matplotlib.use("Agg")  # nodes have no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), dpi=110)
    axes.plot(
        [line["step"] for line in lines],
        [line["loss"] / math.log(2) for line in lines],
        lw=1,
        label="training",
    )
    for name, style in (("unigram", ":"), ("bigram", "--")):
        if name in bits:
            axes.axhline(bits[name], color="grey", ls=style, lw=1, label=f"{name} model, validation")
    if "validation" in bits:
        axes.plot([lines[-1]["step"]], [bits["validation"]], "o", color="black", label="validation")
    axes.set(xlabel="step", ylabel="bits per byte", xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def page(summary: dict[str, Any], picture: bytes) -> str:
    """The summary as one HTML page; `picture` is a PNG."""
    bits = summary["bits_per_byte"]
    verdict = (
        f"{bits['validation']:.2f} bits per byte on validation; "
        f"a bigram model has {bits['bigram']:.2f}, a unigram model {bits['unigram']:.2f}."
    )
    rows = [
        ("State", summary["state"]),
        ("Ranks", f"{summary['world_size']} on {', '.join(summary['hosts'])}, {summary['device']}"),
        ("Steps", f"{summary['step']} of {summary['steps']}, {summary['restarts']} restarts"),
        ("Speed", f"{metrics.short(summary['tokens_per_s'])} tokens/s"),
        ("Data", summary["data"]),
        ("Stack", summary["stack"]),
        *(
            (f"Phase: {name.replace('_', ' ')}", f"{seconds:.2f} s")
            for name, seconds in summary["phases"].items()
        ),
    ]
    table = "\n".join(f"<tr><th>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in rows)
    name = html.escape(summary["run"])
    image = base64.b64encode(picture).decode()
    note = (
        '<p class="note">GPUs are simulated: the training ran on CPU.</p>'
        if summary["gpus_simulated"]
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Run {name}</title>'
        f"<style>{STYLE}</style><h1>Run {name}</h1><p>{verdict}</p>{note}"
        f'<img alt="Loss by step" src="data:image/png;base64,{image}"><table>{table}</table></html>\n'
    )
