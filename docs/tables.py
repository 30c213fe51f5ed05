"""The tables of scores in docs/: each cell is the rows' in results/small/rows.csv.

    python docs/tables.py           writes them into results.md, defences.md and protect.md
    python docs/tables.py --check   only compares; exit code 1 where one differs

A cell is the IoU of the object in percent, of a U-Net that starts from ImageNet: the mean over seeds, with ± the
standard deviation where there are three, with (2) where there are two. A cell of defences.md has Lung; VOC's objects.
"""

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

DOCS = Path(__file__).resolve().parent
ROWS = DOCS.parent / "results/small/rows.csv"
BOTH = ("lung", "voc-object")
NOISES = {
    "clean": "clean images",
    "random-flat": "random noise, everywhere alike",
    "random": "random noise, UnSeg's two budgets",
    "unseg": "UnSeg",
    "unseg-texture": "UnSeg, generator `texture`",
    "unseg-colour": "UnSeg, generator `colour`",
    "untrained": "UnSeg's network before training, its noise scaled up",
    "grating": "`colour_grating`, stripes of two colours",
    "fixed-tile": "one random tile",
    "composite-grating": "`composite_grating`",
    "fine-grating": "`fine_grating`",
    "colour-offset": "a constant colour",
    "gray-offset": "a constant brightness",
    "random-class": "a random tile for each class",
    "error-min": "error-minimising noise",
    "error-min-class": "error-minimising by class",
    "synper": "SynPer",
    "ar": "AR",
    "cuda": "CUDA",
    "cuda-blur": "CUDA without stretching",
}
DEFENDED = ("clean", "unseg", "fine-grating", "grating", "colour-offset", "error-min-class")
DEFENCES = {
    "none": "none",
    "gaussian_blur-sigma-1": "blur (sigma 1)",
    "down_up-factor-0.5": "half size and back",
    "gaussian_noise-sigma-8": "Gaussian noise (sigma 8)",
    "median-size-3": "median (3 pixels)",
    "coin": "every pixel fetched from nearby (COIN)",
    "sharpen_frequency": "random sharpening (RSK + FF)",
    "frozen_encoder": "the encoder is not trained",
    "orthogonal_projection": "what a linear classifier finds, removed",
    "universal_component": "the shared part subtracted",
    "jpeg-quality-95": "JPEG 95",
    "jpeg-quality-75": "JPEG 75",
    "jpeg-quality-50": "JPEG 50",
    "jpeg-quality-30": "JPEG 30",
    "jpeg-quality-10": "JPEG 10",
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


def finals(rows: Path) -> dict[tuple[str, str, str], list[float]]:
    """The scores of all seeds by (recipe, defence, setting)."""
    found = defaultdict(list)
    for row in csv.DictReader(rows.open()):
        asked = {"victim_key": "unet-lite0", "init": "imagenet", "metric": "iou_object", "clean_fraction": "0.0"}
        if row["setting"] in BOTH and asked.items() <= row.items():
            found[row["recipe"], row["label"] or "none", row["setting"]].append(float(row["final"]))
    return found


def tables(rows: Path = ROWS) -> dict[str, str]:
    """Each file's table in Markdown."""
    known = finals(rows)

    def cell(recipe: str, defence: str, setting: str) -> str:
        seeds = known.get((recipe, defence, setting), [])
        spread = f" ± {stdev(seeds):.1f}" if len(seeds) > 2 else f" ({len(seeds)})" if len(seeds) == 2 else ""
        return f"{mean(seeds):.1f}{spread}" if seeds else "–"

    def pair(recipe: str, defence: str) -> str:
        cells = [cell(recipe, defence, setting) for setting in BOTH]
        return "–" if set(cells) == {"–"} else "; ".join(cells)

    defended = [[words, *(pair(name, defence) for name in DEFENDED)] for defence, words in DEFENCES.items()]
    noises = sorted(NOISES, key=lambda name: (name != "clean", mean(known[name, "none", "voc-object"])))
    saved = [word or name for name in ("VOC's objects", "Lung") for word in SAVED.values()]
    return {
        "results.md": markdown(
            ["trained on", "Lung", "VOC's objects"],
            [[NOISES[name], *(cell(name, "none", setting) for setting in BOTH)] for name in noises],
        ),
        "defences.md": markdown(
            ["defence", *(NOISES[name].partition(",")[0] for name in DEFENDED)],
            [line for line in defended if set(line[1:]) != {"–"}],  # a defence that was run
        ),
        "protect.md": markdown(
            ["pointed at by", *saved],
            [
                [words, *(cell(f"unseg{end}", defence, setting) for setting in BOTH[::-1] for defence in SAVED)]
                for end, words in POINTED.items()
            ],
        ),
    }


def markdown(heading: list[str], lines: list[list[str]]) -> str:
    rule = "|" + "---|" * len(heading)
    return "\n".join(rule if line is None else f"| {' | '.join(line)} |" for line in [heading, None, *lines])


def main(check: bool) -> int:
    differing = 0
    for name, table in tables().items():
        file = DOCS / name
        text = file.read_text()
        # the table that begins with the same heading
        old = re.search(re.escape(table.splitlines()[0]) + r"\n(\|.*\n?)+", text)
        if not old:
            sys.exit(f"Expected a table in {file} that begins with '{table.splitlines()[0]}', found none; put it back.")
        if old[0].rstrip() != table:
            differing += 1
            print(f"{file}: not what {ROWS} says{': run python docs/tables.py' if check else ', written anew'}")
            if not check:
                file.write_text(text[: old.start()] + table + "\n" + text[old.end() :])
    return int(check and differing > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
