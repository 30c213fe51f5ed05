"""Compare an original with its protected copy: what `unseg inspect A B` shows."""

from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import lpips
from unseg_lib.method import measure
from unseg_lib.protection.photo import read_photo

BARS, WIDTH = 9, 40  # lines of the histogram at most, characters of its longest bar


def inspect(original: str | Path, protected: str | Path, lpips_weights: str | Path | None = None) -> dict:
    """What was changed: share of changed pixels, largest change of each channel, rms, psnr, ssim, and how often each.

    `counts[k]` is the share of values that changed by k steps of 255, sign dropped. With `lpips_weights`, the file
    of AlexNet that `evaluation/perceptual.py` names, also `lpips`.
    """
    before, after = read_photo(Path(original)).pixels, read_photo(Path(protected)).pixels
    if before.shape != after.shape:
        sizes = (f"{x.shape[1]}x{x.shape[0]}" for x in (before, after))
        raise UnsegError(f"Expected two images of one size, found {' and '.join(sizes)}; give original and copy.")
    change = np.abs(after.astype(np.int16) - before)
    found = measure(before, after, np.ones(before.shape[:2], bool))
    perceived = {"lpips": lpips(before, after, lpips_weights)} if lpips_weights else {}
    return {
        "changed": float((change.max(axis=2) > 0).mean()),
        "largest": [int(value) for value in change.max(axis=(0, 1))],
        "counts": (np.bincount(change.ravel(), minlength=1) / change.size).tolist(),
        **{name: found[name] for name in ("rms", "psnr", "ssim")},
        **perceived,
    }


def described(found: dict) -> str:
    """The result of `inspect` as lines of text, with a histogram."""
    red, green, blue = found["largest"]
    lines = [
        f"changed pixels    {100 * found['changed']:.1f} %",
        f"largest change    red {red}, green {green}, blue {blue} of 255 steps",
        f"rms               {found['rms']:.2f} steps",
        f"PSNR, SSIM        {found['psnr']:.1f} dB, {found['ssim']:.4f}",
        *([f"LPIPS             {found['lpips']:.4f}"] if "lpips" in found else []),
        "",
        "change in steps   share of all values",
    ]
    counts = found["counts"]
    step = -(-len(counts) // BARS)
    for first in range(0, len(counts), step):
        share = sum(counts[first : first + step])
        name = str(first) if step == 1 else f"{first}-{first + step - 1}"
        lines.append(f"{name:>15}   {'#' * round(WIDTH * share):<{WIDTH}} {100 * share:5.1f} %")
    return "\n".join(lines)


def write_difference(original: str | Path, protected: str | Path, path: str | Path, times: int = 10) -> None:
    """Write an image of the change, enlarged around gray; never over a file that is there."""
    from unseg_lib.images import write_image
    from unseg_lib.reporting import magnify

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UnsegError(f"Expected a name that ends in .png for the image of the change, found {path}.")
    if path.exists():
        raise UnsegError(f"Expected to write {path}, found a file there; choose another name.")
    before, after = read_photo(Path(original)).pixels, read_photo(Path(protected)).pixels
    try:
        write_image(path, magnify(before, after, times))
    except OSError as error:
        raise UnsegError(f"Could not write {path} ({error.strerror}); choose another name.") from error
