"""The tables of scores in README.md and docs/: each cell is the rows' in results/small/rows.csv.

    .venv/bin/python docs/tables.py           writes them into README.md, results.md, defences.md and protect.md
    .venv/bin/python docs/tables.py --check   only compares; exit code 1 where one differs

A cell is in percent, of a U-Net that starts from ImageNet: the mean over seeds, with ± the standard deviation where
there are three, with (2) where there are two. A cell of defences.md has Lung; VOC's objects.
"""

import math
import re
import sys
from pathlib import Path

from unseg_lib.reporting import load, scores, spread

ROOT = Path(__file__).resolve().parents[1]
# README's columns as (setting, metric, end of the recipes' names), its lines as (recipe, label)
COLUMNS = {
    "Lung, IoU": ("lung", "iou_object", ""),
    "VOC objects, IoU": ("voc-object", "iou_object", ""),
    "NWPU objects, IoU": ("nwpu-object", "iou_object", ""),
    "CamVid's cars, IoU": ("camvid", "iou:car", "-things"),
}
STRONGEST = "the strongest control"
LINES = {
    "clean images": ("clean", "none"),
    "random noise, everywhere alike": ("random-flat", "none"),
    "random noise, UnSeg's two budgets": ("random", "none"),
    STRONGEST: ("", "none"),
    "UnSeg": ("unseg", "none"),
    "UnSeg, in quarters": ("unseg-quarters", "none"),
    "UnSeg, published large": ("unseg", "shrunk"),
}
BOTH = ("lung", "voc-object")
LARGER = tuple(f"{setting}-128" for setting in BOTH)
NOT_RUN = math.inf, 0, "–"
NOISES = {
    "clean": "clean images",
    "random-flat": "random noise, everywhere alike",
    "random": "random noise, UnSeg's two budgets",
    "unseg": "UnSeg",
    "unseg-quarters": "UnSeg, in quarters",
    "unseg-colour": "UnSeg, generator `colour`",
    "untrained": "UnSeg's network before training, its noise scaled up",
    "grating": "`colour_grating`, stripes of two colours",
    "fixed-tile": "one random tile",
    "composite-grating": "`composite_grating`",
    "fine-grating": "`fine_grating`",
    "brightness-grating": "`brightness_grating`, stripes of brightness alone",
    "colour-offset": "a constant colour",
    "gray-offset": "a constant brightness",
    "random-class": "a random tile for each class",
    "error-min": "error-minimising noise",
    "error-min-class": "error-minimising by class",
    "synper": "SynPer",
    "ar": "AR",
    "ar-tiles": "AR, other coefficients in each tile",
    "cuda": "CUDA",
    "cuda-blur": "CUDA without stretching",
}
DEFENDED = ("clean", "random-flat", "random", "unseg", "fine-grating", "grating", "colour-offset", "error-min-class")
DEFENCES = {
    "none": "none",
    "gaussian_blur-sigma-1": "blur (sigma 1)",
    "down_up-factor-0.5": "half size and back",
    "gaussian_noise-sigma-8": "Gaussian noise (sigma 8)",
    "median-size-3": "median (3 pixels)",
    "wiener": "a Wiener filter",
    "elastic": "elastic distortion",
    "coin": "every pixel fetched from nearby (COIN)",
    "sharpen_frequency": "random sharpening (RSK + FF)",
    "frozen_encoder": "the encoder is not trained",
    "orthogonal_projection": "what a linear classifier finds, removed",
    "purify-function-unseg_lib.defenses.images-total_variation": "a purifier of one's own (total variation)",
    "universal_component": "the shared part subtracted",
    "jpeg-quality-95": "JPEG 95",
    "jpeg-quality-75": "JPEG 75",
    "jpeg-quality-50": "JPEG 50",
    "jpeg-quality-30": "JPEG 30",
    "jpeg-quality-10": "JPEG 10",
    "median_cut": "a palette of 32 colours (median cut)",
    "bit_depth-bits-2": "two bits a channel",
    "ueraser": "UEraser (photometric augmentation)",
    "pgd_at": "adversarial training (PGD-AT)",
    "ddc_at": "adversarial training (DDC-AT)",
    "segpgd_at": "adversarial training (SegPGD-AT)",
    "grayscale": "gray training",
    "shrunk": "published large, shrunk by the attacker",
}
POINTED = {"": "the true mask", "-box": "a box around each part", "-points": "three points", "-nothing": "nothing"}
SAVED = {"none": "", "jpeg-quality-95": "JPEG 95", "jpeg-quality-75": "JPEG 75", "down_up-factor-0.5": "half size"}


# mean, number of seeds and cell by (setting, metric, recipe, label)
Scores = dict[tuple[str, str, str, str], tuple[float, int, str]]


def cells(results: Path) -> Scores:
    found = scores(load(results))
    found = found[(found.victim_key == "unet-lite0") & (found.init == "imagenet") & (found.clean_fraction == 0)]
    keys = zip(found.setting, found.metric, found.recipe, found.label.replace("", "none"))
    return dict(zip(keys, zip(found["mean"], found.n, map(told, found["mean"], found["std"], found.n))))


def told(mean: float, std: float, n: int) -> str:
    return spread(mean, std if n > 2 else float("nan")) + f" ({n})" * (n == 2)


def readme_table(known: Scores) -> str:
    """README's: what each data set leaves of a victim's score."""
    columns = []
    for setting, metric, end in COLUMNS.values():
        names = [(recipe if recipe == "clean" else recipe + end, label) for recipe, label in LINES.values()]
        column = {line: known.get((setting, metric, *name), NOT_RUN)[2] for line, name in zip(LINES, names)}
        # of the noises that are neither random nor UnSeg's, and have as many seeds as any
        own = {key[2]: one for key, one in known.items() if key[:2] == (setting, metric) and key[3] == "none"}
        own = {recipe: one for recipe, one in own.items() if recipe.endswith(end)}
        most = max((n for _, n, _ in own.values()), default=0)
        rivals = [name for name in own if own[name][1] == most and not name.startswith(("clean", "random", "unseg"))]
        if rivals:
            best = min(rivals, key=lambda name: own[name][0])
            column[STRONGEST] = f"{own[best][2]} ({best.removesuffix(end)})"
        columns.append(list(column.values()))
    kept = [number for number, column in enumerate(columns) if set(column) != {"–"}]
    heading = ["trained on", *(list(COLUMNS)[number] for number in kept)]
    return markdown(heading, [[name, *(columns[i][j] for i in kept)] for j, name in enumerate(LINES)])


def tables(results: Path) -> dict[str, str]:
    """Each file's table in Markdown."""
    known = cells(results)

    def cell(recipe: str, label: str, setting: str) -> str:
        return known.get((setting, "iou_object", recipe, label), NOT_RUN)[2]

    def pair(recipe: str, label: str) -> str:
        both = [cell(recipe, label, setting) for setting in BOTH]
        return "–" if set(both) == {"–"} else "; ".join(both)

    defended = [[words, *(pair(name, label) for name in DEFENDED)] for label, words in DEFENCES.items()]
    voc = {name: known.get(("voc-object", "iou_object", name, "none"), NOT_RUN)[0] for name in NOISES}
    saved = [f"{name}, {word}" if word else name for name in ("VOC's objects", "Lung") for word in SAVED.values()]
    return {
        "README.md": readme_table(known),
        "docs/results.md": markdown(
            ["trained on", "Lung", "VOC's objects", "Lung, 128 pixels", "VOC's objects, 128 pixels"],
            [
                [NOISES[name], *(cell(name, "none", setting) for setting in (*BOTH, *LARGER))]
                for name in sorted(NOISES, key=lambda name: (name != "clean", voc[name]))
            ],
        ),
        "docs/defences.md": markdown(["defence", *(NOISES[name] for name in DEFENDED)], defended),
        "docs/protect.md": markdown(
            ["pointed at by", *saved],
            [
                [words, *(cell(f"unseg{end}", label, setting) for setting in BOTH[::-1] for label in SAVED)]
                for end, words in POINTED.items()
            ],
        ),
    }


def markdown(heading: list[str], lines: list[list[str]]) -> str:
    """A table; lines of which nothing was run are left out."""
    lines = [line for line in lines if set(line[1:]) != {"–"}]
    return "\n".join(
        [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading), *(f"| {' | '.join(x)} |" for x in lines)]
    )


def replaced(text: str, table: str, where: str) -> str:
    """The text with this table in the place of the one whose heading begins with the same words."""
    first = re.escape(table.partition(" |")[0])
    text, found = re.subn(rf"^{first} \|.*\n(\|.*\n?)+", lambda _: table + "\n", text, count=1, flags=re.MULTILINE)
    if not found:
        sys.exit(
            f"Expected a table in {where} that begins with '{table.partition(' |')[0]} |', found none; put it back."
        )
    return text


def main(root: Path = ROOT, check: bool = False) -> int:
    differing = 0
    for name, table in tables(root / "results/small").items():
        file = root / name
        new = replaced(old := file.read_text(), table, name)
        if new != old:
            differing += 1
            print(f"{name}: not what the rows say{': run python docs/tables.py' if check else ', written anew'}")
            if not check:
                file.write_text(new)
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
