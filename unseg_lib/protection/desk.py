"""The desk: an image, what somebody points at, a budget and a generator, and what comes of them.

It knows nothing of a browser. A click or a box finds the region anew and asks the generator; another budget only
scales the raw noise that is there. What is shown is small, what is saved has the size of the original.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes
from unseg_lib.method import Region, enlarged, measure, region_of
from unseg_lib.poisons import PoisonSettings
from unseg_lib.protection.gray import gray_remark
from unseg_lib.protection.one import Protector, pixels_of
from unseg_lib.protection.photo import Photo, decoded, encode, read_photo, with_three_channels
from unseg_lib.protection.placing import add_raw_noise

VIEW = 640  # pixels; the longer side of what is shown: a slider must not wait for a whole photograph
WIDTHS = {"points": 2, "box": 4}  # numbers of one point, one box


class Desk:
    """One image being protected; places are pixels of the original, x first.

    photo, name: the image and what its copies are called after. prompt: `{}`, `{"points": [[x, y], ...]}` or
    `{"box": [[x0, y0, x1, y1], ...]}`. region: what it means, see `region_of`. raw: noise `(3,g,g)` in [-1,1], free of
    any budget. view, view_mask, view_protected: the image `(h,w,3)`, the region `(h,w)` and the protected image,
    shrunk to at most `VIEW` pixels a side. rgb: store gray images in three channels, which keep all of the noise.
    """

    def __init__(
        self,
        photo: Photo,
        name: str = "image",
        *,
        generator: str = "small",
        eps: float = 8,
        eps_bg: float = 2,
        rgb: bool = False,
        device: str = "auto",
    ):
        PoisonSettings(eps, eps_bg)  # checks the budget
        self.rgb = rgb
        self.eps, self.eps_bg, self.device = eps, eps_bg, device
        self.protectors = {generator: Protector(generator, device=device)}
        self.generator = generator
        self.take(photo, name)

    def take(self, photo: Photo, name: str) -> None:
        """Put another image on the desk; generator and budget stay, what was pointed at goes."""
        photo = with_three_channels(photo) if self.rgb else photo
        pixels_of(photo.pixels)  # checks its size
        region = region_of(photo.pixels)
        self.photo, self.name, self.view = photo, name, fitted(photo.pixels)
        self._found({}, region)

    def on_click(self, x: float, y: float) -> None:
        """One more point; boxes that were there go, since a prompt is of one kind."""
        self.point_at(points=[*self.prompt.get("points", []), (x, y)])

    def on_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """One more box by two opposite corners, in any order; points that were there go."""
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        self.point_at(box=[*self.prompt.get("box", []), corners])

    def undo(self) -> None:
        """Take the last point or box back."""
        self.point_at(**{kind: places[:-1] for kind, places in self.prompt.items()})

    def point_at(self, *, points: Sequence = (), box: Sequence = ()) -> None:
        """Replace the prompt: points `(k,2)`, or box `(k,4)`, or neither, which means what stands out by its colour.

        A flat list of numbers will do.
        """
        prompt = {kind: places for kind, places in (("points", points), ("box", box)) if len(places)}
        region = region_of(self.photo.pixels, **prompt)
        self._found({kind: np.reshape(places, (-1, WIDTHS[kind])).tolist() for kind, places in prompt.items()}, region)

    def set_generator(self, name: str) -> None:
        """Another generator, by its shipped name or its file, for the same region."""
        if name not in self.protectors:
            self.protectors[name] = Protector(name, device=self.device)
        self.generator = name
        self._ask()

    def set_budget(self, eps: float, eps_bg: float) -> None:
        """The largest change inside and outside the region, in steps over 255; no generator runs."""
        PoisonSettings(eps, eps_bg)  # checks the budget
        self.eps, self.eps_bg = eps, eps_bg
        self._add()

    def _found(self, prompt: dict, region: Region) -> None:
        self.prompt, self.region = prompt, region
        self.view_mask = enlarged(region.mask, self.view.shape[:2])
        self._ask()

    def _ask(self) -> None:
        self.raw = self.protectors[self.generator].raw_noise(self.photo.pixels, self.region)
        self._add()

    def _add(self) -> None:
        self.view_protected = self._with_noise(self.view, self.view_mask)

    def _with_noise(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return add_raw_noise(pixels, self.raw, mask, self.eps, self.eps_bg, gray=self.photo.gray)

    def measured(self) -> dict[str, float]:
        """What the noise does to the image as it is shown, see `measure`."""
        return measure(self.view, self.view_protected, self.view_mask)

    def save(self, path: str | Path, *, overwrite: bool = False) -> dict:
        """Write the protected image in its full size as PNG, with the original's colour profile and transparency.

        A file that is there stays, unless `overwrite`. Returns what the file, read back, has changed: `written`,
        `found_by`, `protected` (share of the image), `eps`, `eps_bg`, linf_inside, linf_outside, rms, psnr and ssim
        as `measure` has them, and its size in `bytes`.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UnsegError(f"Expected a name that ends in .png, found {path}; PNG keeps every pixel as it is.")
        if path.exists() and not overwrite:
            raise UnsegError(f"Expected to write {path}, found a file there; choose another name.")
        mask = self.region.mask
        content = encode(self.photo, self._with_noise(self.photo.pixels, mask), "png")
        try:
            write_bytes(path, content)
        except OSError as error:
            raise UnsegError(f"Could not write {path} ({error.strerror}); choose another folder.") from error
        return {
            "written": path.as_posix(),
            "found_by": self.region.found_by,
            "protected": float(mask.mean()),
            "eps": self.eps,
            "eps_bg": self.eps_bg,
            **measure(self.photo.pixels, decoded(path.read_bytes()), mask),
            "bytes": len(content),
        }


def fitted(pixels: np.ndarray) -> np.ndarray:
    """An image uint8 `(H,W,3)` shrunk to at most `VIEW` pixels a side."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((VIEW, VIEW), Image.Resampling.BILINEAR)
    return np.asarray(image)


def uploaded(name: str, content: bytes) -> Photo:
    """The image in a file's content, as `read_photo` reads it; `name` tells the format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return read_photo(path)
        except UnsegError as error:
            raise UnsegError(str(error).replace(f"{folder}/", "")) from error


def free_name(folder: str | Path, name: str) -> Path:
    """Where a protected copy of the image `name` can be written without replacing a file."""
    path, number = Path(folder) / f"{name}-protected.png", 1
    while path.exists():
        number += 1
        path = Path(folder) / f"{name}-protected-{number}.png"
    return path


def summary(desk: Desk) -> str:
    """What is on the desk, in a line."""
    found = desk.measured()
    beware = gray_remark(desk.photo.pixels, desk.photo.gray, desk.generator)
    return (
        f"Protected: {100 * desk.region.mask.mean():.0f} % of {desk.name}, found by {desk.region.found_by}. Largest "
        f"change {found['linf_inside']} inside and {found['linf_outside']} outside, of 255 steps; "
        f"PSNR {found['psnr']:.1f} dB." + (f" Beware: {beware}." if beware else "")
    )


def saved_sentence(saved: dict) -> str:
    """What was written and what it has changed, in a line."""
    return (
        f"Written: {saved['written']} ({saved['bytes'] / 1e6:.1f} MB). Read back, it differs by at most "
        f"{saved['linf_inside']} inside (allowed {saved['eps']:g}) and {saved['linf_outside']} outside (allowed "
        f"{saved['eps_bg']:g}), of 255 steps; PSNR {saved['psnr']:.1f} dB."
    )
