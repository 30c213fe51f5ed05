"""What a batch of `unseg protect` did, in a few lines: honest about what was broken and what it cost."""

from collections import Counter
from pathlib import Path
from statistics import fmean

from unseg_lib.protection.gray import gray_warnings
from unseg_lib.protection.lines import REPORT


def summary(rows: list[dict], out: Path) -> str:
    """Lines of text about the rows of `protect_files`; budgets are those of the written files."""
    done = [row for row in rows if not row["problem"]]
    if not done:
        return f"No image was protected; {out / REPORT} says why."
    ways = ", ".join(f"{count} by {way}" for way, count in Counter(row["found_by"] for row in done).items())
    before, after = (sum(row[name] for row in done) / 1e6 for name in ("bytes_before", "bytes_after"))
    largest = [max(row[name] for row in done) for name in ("linf_inside", "linf_outside")]
    psnr = [row["psnr"] for row in done if row["psnr"] != float("inf")]
    lines = [
        f"Protected images: {len(done)} in {out}; regions found: {ways}.",
        f"Largest change {largest[0]} inside and {largest[1]} outside the region, of 255 steps"
        + (f"; mean PSNR {fmean(psnr):.1f} dB." if psnr else "; nothing was changed."),
        f"Size of the files: {before:.1f} MB before, {after:.1f} MB after.",
    ]
    broken = [row for row in done if row["linf_inside"] > row["eps"] or row["linf_outside"] > row["eps_bg"]]
    if broken:
        lines.append(
            f"JPEG has changed {len(broken)} of them beyond the budget, and may have weakened the protection; "
            "--format png does neither."
        )
    empty = sum(row["protected"] == 0 for row in done)
    if empty:
        lines.append(f"In {empty} the region is empty, so no noise was added; check the masks.")
    whole = sum(row["found_by"] == "whole image" for row in done)
    if whole:
        lines.append(f"In {whole} nothing stood out, so the whole image was taken; better say what to protect.")
    rough = sum(row["found_by"] != "mask" for row in done)
    if rough:
        lines.append(
            f"{rough} regions are no exact masks. Where we measured it, such regions protected little or nothing "
            "(README, images that the generators never saw): give --masks if it matters."
        )
    lines += gray_warnings([row["remark"] for row in done])
    return "\n".join([*lines, f"Every image has a line in {out / REPORT}."])
