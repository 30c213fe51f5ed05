"""`unseg inspect`: an original and its protected copy, in numbers, in words and as an image of the change."""

from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import lpips
from unseg_lib.files import writing
from unseg_lib.images import write_image
from unseg_lib.method import measure
from unseg_lib.protection import check_new_png, read_photo

BARS, WIDTH = 9, 40  # lines of the histogram at most, characters of its longest bar


def inspect(original: str | Path, protected: str | Path, lpips_weights: str | Path | None = None) -> dict:
    """The share of changed pixels, largest change of each channel, rms, psnr, ssim; with `lpips_weights` (see `lpips`)
    also lpips; and in `counts[k]` the share of values that changed by k steps of 255, sign dropped."""
    before, after = _pair(original, protected)
    change = np.abs(after.astype(np.int16) - before)
    found = measure(before, after, np.ones(before.shape[:2], bool))
    found |= {"lpips": lpips(before, after, lpips_weights)} if lpips_weights else {}
    return {name: value for name, value in found.items() if not name.startswith("linf")} | {
        "changed": float((change.max(axis=2) > 0).mean()),
        "largest": change.max(axis=(0, 1)).tolist(),
        "counts": (np.bincount(change.ravel()) / change.size).tolist(),
    }


def _pair(original: str | Path, protected: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Both images, uint8 `(H,W,3)`; raises `UnsegError` where their sizes differ."""
    before, after = read_photo(Path(original)).pixels, read_photo(Path(protected)).pixels
    if before.shape != after.shape:
        sizes = (f"{x.shape[1]}x{x.shape[0]}" for x in (before, after))
        raise UnsegError(f"Expected two images of one size, found {' and '.join(sizes)}; give original and copy.")
    return before, after


def described(found: dict) -> str:
    """The result of `inspect` as lines of text, with a histogram."""
    red, green, blue = found["largest"]
    lines = [
        f"changed pixels    {100 * found['changed']:.1f} %",
        f"largest change    red {red}, green {green}, blue {blue} of 255 steps",
        f"rms               {found['rms']:.2f} steps",
        f"PSNR, SSIM        {found['psnr']:.1f} dB, {found['ssim']:.4f}",
        *([f"LPIPS             {found['lpips']:.4f}"] if "lpips" in found else []),
        "\nchange in steps   share of all values",
    ]
    step = -(-len(found["counts"]) // BARS)
    for first in range(0, len(found["counts"]), step):
        share = sum(found["counts"][first : first + step])
        name = str(first) if step == 1 else f"{first}-{first + step - 1}"
        lines.append(f"{name:>15}   {'#' * round(WIDTH * share):<{WIDTH}} {100 * share:5.1f} %")
    return "\n".join(lines)


def write_difference(original: str | Path, protected: str | Path, path: str | Path, times: int = 10) -> None:
    """Write an image of the change, enlarged around gray; never over a file that is there."""
    from unseg_lib.reporting import magnify

    check_new_png(path := Path(path))
    before, after = _pair(original, protected)
    with writing(path, "name"):
        write_image(path, magnify(before, after, times))
