"""Protect one image, several, or a folder of files: what `unseg_lib.protect` and `unseg protect` do.

Of files, the generator works on one while threads read the next ones and measure and write the last ones; only a few
images are in memory at once. protected.csv gets a line as soon as a file is whole. An image that cannot be protected
gets a line with the reason, and the rest goes on. The same call again does nothing twice.
"""

import errno
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg_lib.errors import UnsegError, no_access
from unseg_lib.files import sha256_of
from unseg_lib.images import decode_image
from unseg_lib.method import Box, Inference, Prepared, Region, add_raw_noise, enlarged, measure, region_of, shrunk
from unseg_lib.poisons import Manifest, PoisonSettings, Sample, digest, open_generator, prompt_of, sweep
from unseg_lib.protection.inputs import Input, RegionOf, find_inputs, masks_and_prompts, shown
from unseg_lib.protection.photo import FORMATS, Photo, array_of, check_size, gray_remark, like, pixels_of, read_photo
from unseg_lib.protection.report import REPORT, TYPES, alone, earlier_lines, is_whole, new_line, writing
from unseg_lib.runtime import progress, thread_count

LARGEST = 4096  # pixels; a longer side is shrunk before the generator looks, which sees a few hundred anyway
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # after these, no other image would fare better


@dataclass(frozen=True)
class Protected:
    """A protected image and what was done to it.

    image: of the kind, shape and value range that was given. noise: change in whole steps over 255, int16 `(H,W,3)`.
    region: bool `(H,W)`, where the full budget holds; found_by: "mask", "box", "points", "salient objects" or "whole
    image". measured: linf_inside, linf_outside, rms (steps over 255), psnr (dB), ssim. remark: "", or why this is
    known not to protect (`gray_remark`).
    """

    image: Any
    noise: np.ndarray
    region: np.ndarray
    found_by: str
    measured: dict[str, float]
    remark: str = ""


class Protector:
    """A loaded generator that protects any number of images; to be made once, e.g. in a data loader's worker.

    generator: "small", "texture", "colour", "vit_b" (the paper's own, see `weights.released_path`), or a path.
    eps, eps_bg: the largest change inside and outside the region, in steps over 255; fractions are rounded down, and an
    eps that leaves nothing of it, such as 8/255, is refused. prompt: how the generator is shown the region: "mask",
    its "box", ten "points" in it, or several joined by "+"; the budget follows the region itself. seed: of those
    points; the rest draws nothing at random. device: "auto", "cpu", "cuda", "mps".
    reference: run it as the paper's numbers were made, fp32 and one image at a time, and slower; pixels then differ
    by at most one step (`inference.Inference`). compiled: by torch.compile, which takes minutes at first.
    """

    def __init__(
        self,
        generator: str = "small",
        *,
        eps: float = 8,
        eps_bg: float = 2,
        prompt: str = "mask",
        seed: int = 0,
        device: str = "auto",
        reference: bool = False,
        compiled: bool = False,
    ):
        self.settings = PoisonSettings(eps, eps_bg, seed, str(generator), prompt, device)  # checks budget and prompt
        if 0 < eps < 1:
            raise UnsegError(f"Expected eps in steps of 255, say 8 and not 8/255, found {eps:g}: nothing would change.")
        self.eps, self.eps_bg = eps, eps_bg
        generator, self.sha256 = open_generator(self.settings)
        self.inference = Inference(generator, reference=reference, compiled=compiled)

    def __call__(
        self, image: Any, mask: Any = None, *, box: Box | None = None, points: Sequence[Box] | None = None
    ) -> Protected:
        """Protect one image, see `protect`. Warns where that is known not to protect (`Protected.remark`)."""
        pixels, gray = pixels_of(image)
        region = region_of(pixels, None if mask is None else array_of(mask), box, points)
        done, remark = pixels, ""
        if region.mask.any():  # an empty region leaves the image as it is, as in the released code
            raw = self.raw_noise(pixels, region.mask)
            done = add_raw_noise(pixels, raw, region.mask, self.eps, self.eps_bg, gray=gray)
            remark = gray_remark(pixels, gray, self.settings.generator)
        if remark:
            warnings.warn(f"Beware: {remark}.", stacklevel=2)
        measured = measure(pixels, done, region.mask)
        noise = done.astype(np.int16) - pixels
        return Protected(like(image, done), noise, region.mask, region.found_by, measured, remark)

    def raw_noise(self, pixels: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """The generator's noise `(3,g,g)` in [-1,1] on the padded square of an image uint8 `(H,W,3)`."""
        return self.raw_noises([self.prepare(pixels, mask)])[0]

    def prepare(self, pixels: np.ndarray, mask: np.ndarray) -> Prepared:
        """The processor's share of `raw_noise`, for any thread; very large images are shrunk first, for memory."""
        if max(mask.shape) > LARGEST:
            pixels = shrunk(pixels, LARGEST)
            mask = enlarged(mask, pixels.shape[:2])
        name = digest(pixels) if "points" in self.settings.prompt else ""  # each image has points of its own
        return self.inference.prepare(pixels, **prompt_of(Sample(name, pixels, mask, mask), self.settings))

    def raw_noises(self, prepared: list[Prepared]) -> torch.Tensor:
        """The generator's share for N images, `(N,3,g,g)`."""
        return self.inference(prepared)


def protect(
    image: Any,
    mask: Any = None,
    *,
    box: Box | None = None,
    points: Sequence[Box] | None = None,
    eps: float = 8,
    eps_bg: float = 2,
    generator: str = "small",
    prompt: str = "mask",
    seed: int = 0,
    device: str = "auto",
) -> Protected:
    """Protect one image: no value changes by more than `eps` of 255 steps inside the region, `eps_bg` outside.

    image: numpy uint8 or float in [0,1], `(H,W,3)`, `(H,W,1)` or `(H,W)`; a PIL image; or a tensor `(3,H,W)` or
    `(1,H,W)`, uint8 or float in [0,1]. At least 16 pixels a side. A float image is rounded to 255 steps first, as a
    file would. One-channel images, and PIL images that are gray, stay gray, which protects nothing where we measured
    it and gets a warning: give them as RGB, with the generator "colour".
    mask `(H,W)`, anything but 0 = protect; or box x0,y0,x1,y1 (one or several); or points `(k,2)` x, y; or nothing:
    then what stands out by its colour, at last the whole image.

    generator, prompt, seed, device: see `Protector`. The same image and settings give the same result, and torch's
    own randomness is left alone. For many images make a `Protector` once. Raises `UnsegError` in one sentence on
    anything else.
    """
    protector = Protector(generator, eps=eps, eps_bg=eps_bg, prompt=prompt, seed=seed, device=device)
    return protector(image, mask, box=box, points=points)


def protect_batch(images: Iterable[Any], masks: Iterable[Any] | None = None, **options: Any) -> list[Protected]:
    """`protect` for several images, of any sizes, with one loaded generator; options as there, without prompts.

    masks: one for every image, None for those without. A tensor `(N,3,H,W)` counts as N images.
    """
    if getattr(images, "ndim", 4) != 4:
        raise UnsegError(
            f"Expected a list of images or a tensor (N,3,H,W), found the shape {tuple(images.shape)}; for one "
            "image use protect."
        )
    protector = Protector(options.pop("generator", "small"), **options)
    images = list(images)
    masks = [None] * len(images) if masks is None else list(masks)
    if len(masks) != len(images):
        raise UnsegError(f"Expected a mask for each of {len(images)} images, found {len(masks)}; use None for none.")
    return [protector(image, mask) for image, mask in zip(images, masks)]


def protect_files(
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    masks: str = "",
    classes: str = "",
    boxes: str = "",
    points: str = "",
    eps: float = 8,
    eps_bg: float = 2,
    generator: str = "small",
    format: str = "png",
    quality: int = 95,
    metadata: bool = False,
    rgb: bool = False,
    overwrite: bool = False,
    jobs: int = 2,
    batch: int = 1,
    device: str = "auto",
    reference: bool = False,
    compiled: bool = False,
) -> list[dict]:
    """Protect images of files, folders and patterns, write copies of the same names below `out`; originals stay.

    masks, classes, boxes, points: what to protect, see `masks_and_prompts`; with none of them what stands out by its
    colour, at last the whole image. format: "png"; "keep" the original's (JPEG stays JPEG, the others are lossless);
    "jpeg". quality: of JPEG. metadata: keep EXIF. rgb: store gray images in three channels, which keep all of the
    noise. overwrite: replace files in `out` that are not ours, and copies of other images. jobs: threads that read and
    write. batch: images that the generator is given at once, for GPUs; an image may then differ by a step from
    what it is alone. reference, compiled: see `Protector`.

    Returns the lines of `out`/protected.csv for these images, those with a problem included. Raises `UnsegError` at
    once where nothing can be done at all: no image, no generator, a full disk; `OSError` where the system refuses a
    path of an option.
    """
    out = Path(out)
    asked = {"masks": masks, "classes": classes, "boxes": boxes, "points": points}
    files, region = planned(inputs, out, format=format, quality=quality, batch=batch, jobs=jobs, **asked)
    protector = Protector(generator, eps=eps, eps_bg=eps_bg, device=device, reference=reference, compiled=compiled)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    # on a CPU, reading and writing take longer than a small generator does: half of torch's threads for it, 0 means all
    own = protector.inference
    threads = 0 if own.large or own.device.type != "cpu" else max(1, torch.get_num_threads() // 2)
    with alone(out), thread_count(threads):
        # what earlier runs have left: whole copies, and images that failed and are not tried again now
        lines, images = earlier_lines(out), {shown(file.name) for file in files}
        copies = {line["written"]: line for line in lines if is_whole(out, line)}
        failed = [line for line in lines if line["problem"] and line["image"] not in images]
        manifest = Manifest(out / REPORT, TYPES)
        with writing(manifest.path):
            manifest.save([*copies.values(), *failed])
        # the work itself
        work = _Batch(protector, region, out, manifest, copies, format, quality, metadata, rgb, overwrite)
        rows = list(progress(work.rows(files, jobs, batch), "protect", total=len(files)))
        # all lines in order
        again = {row["written"] for row in rows}
        manifest.save([line for name, line in copies.items() if name not in again] + failed + rows)
        sweep([manifest.path, *(out / file.target for file in files)])
    return rows


def planned(
    inputs: Iterable[str | Path],
    out: Path,
    *,
    format: str,
    quality: int,
    batch: int,
    jobs: int,
    masks: str,
    **asked: str,
) -> tuple[list[Input], RegionOf]:
    """The files that `protect_files` would protect and how their regions are found; nothing is written."""
    if format not in ("png", "keep", "jpeg"):
        raise UnsegError(f"Expected the format png, keep or jpeg, found '{format}'.")
    if not 1 <= quality <= 100:
        raise UnsegError(f"Expected a JPEG quality from 1 to 100, found {quality}.")
    if batch < 1:
        raise UnsegError(f"Expected a batch of at least 1 image, found {batch}.")
    if jobs < 1:
        raise UnsegError(f"Expected at least 1 job, found {jobs}.")
    if out.exists() and not out.is_dir():
        raise UnsegError(f"Expected a folder for the output, found a file at {out}; choose another.")
    if masks and out.resolve() == Path(masks).resolve():
        raise UnsegError(f"Expected masks and copies in two folders, found both in {out}; choose another --out.")
    files = find_inputs(inputs, out, format)
    return files, masks_and_prompts(masks, files=files, **asked)


@dataclass(frozen=True, eq=False)
class _Ready:
    """An image that was read and whose region is known; prepared is None where there is nothing to protect."""

    file: Input
    photo: Photo
    region: Region
    source_sha256: str
    settings: str
    prepared: Prepared | None


@dataclass(frozen=True)
class _Batch:
    """What stays the same from file to file, and the steps of one file. copies: lines of those there, by name."""

    protector: Protector
    region: RegionOf
    out: Path
    manifest: Manifest
    copies: dict[str, dict]
    format: str
    quality: int
    metadata: bool
    rgb: bool
    overwrite: bool

    def rows(self, files: list[Input], jobs: int, batch: int) -> Iterator[dict]:
        """One line for each file, in order. Threads read ahead and write behind, the generator's turn is in between."""
        with ThreadPoolExecutor(jobs) as readers, ThreadPoolExecutor(jobs) as writers:
            left, coming, going = iter(files), deque(), deque()

            def read(number: int) -> None:
                coming.extend(readers.submit(self.step, self.read, file, file) for file in islice(left, number))

            read(jobs + batch - 1)
            while coming or going:
                group = [coming.popleft().result() for _ in range(min(batch, len(coming)))]
                ready = [one for one in group if isinstance(one, _Ready) and one.prepared]
                noises = self.protector.raw_noises([one.prepared for one in ready]) if ready else ()
                raws = dict(zip(map(id, ready), noises))
                for one in group:
                    made = isinstance(one, dict)  # its line is there already
                    raw = raws.get(id(one))
                    going.append(one if made else writers.submit(self.step, self.write, one.file, one, raw))
                read(len(group))
                while going and (not coming or len(going) > jobs):
                    row = going.popleft()
                    yield row if isinstance(row, dict) else row.result()

    def step(self, step: Callable, file: Input, *given: Any) -> Any:
        """What a step gives, or the line that says why it cannot be done: the other images do not wait for this one."""
        try:
            return step(*given)
        except UnsegError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in HOPELESS:
                raise
            problem = str(error)
        except OSError as error:  # of the image, its mask or its copy's name
            problem = no_access(error, file.path)
        except Exception as error:  # whatever is odd about it
            problem = f"Expected an image that can be protected at {file.path}, found one that cannot ({error!r})."
        return new_line(shown(file.name), problem=shown(problem))

    def read(self, file: Input) -> _Ready | dict:
        """The image and its region; or its line, if its copy is there already."""
        # the file: its content decides whether a copy that is there may stay, or may be replaced
        if file.path.exists() and not file.path.is_file():
            raise UnsegError(f"Expected a file at {file.path}, found something else; take it out.")  # it may never end
        try:
            source = sha256_of(file.path)
        except OSError as error:
            raise UnsegError(f"Expected a readable file at {file.path}, found none ({error.strerror}).") from None
        target, known = self.out / file.target, self.copies.get(file.target)
        if target.exists() and not known and not self.overwrite:
            raise UnsegError(
                f"Expected to write {target}, found a file there that is not from here; move it or --overwrite."
            )
        # the image
        photo = read_photo(file.path)
        photo = photo.with_three_channels() if self.rgb else photo
        check_size(photo.pixels, f" in {file.path}")
        if known and known["source_sha256"] != source and not self.overwrite:
            raise UnsegError(
                f"Expected to write {target}, found the copy of another image, or of {file.path} before it was "
                "changed, there; choose another --out or --overwrite."
            )
        # its region, and a fingerprint of all that decides the copy but the original itself
        region, own = self.region(file, photo.pixels), self.protector
        words = (own.sha256, own.eps, own.eps_bg, self.format, self.quality, self.metadata, region.mask.shape)
        words += ("reference",) * own.inference.reference + ("rgb",) * self.rgb
        settings = hashlib.sha256(repr(words).encode() + np.packbits(region.mask).tobytes()).hexdigest()[:16]
        if known and (known["source_sha256"], known["settings"]) == (source, settings):
            return known
        prepared = own.prepare(photo.pixels, region.mask) if region.mask.any() else None
        return _Ready(file, photo, region, source, settings, prepared)

    def write(self, ready: _Ready, raw: torch.Tensor | None) -> dict:
        """Add the noise, write the copy, return its line."""
        photo, mask, own, target = ready.photo, ready.region.mask, self.protector, self.out / ready.file.target
        done, remarks = photo.pixels, ()
        if raw is not None:
            done = add_raw_noise(done, raw, mask, own.eps, own.eps_bg, gray=photo.gray)
            remarks = (gray_remark(photo.pixels, photo.gray, own.settings.generator),)
        format = FORMATS[target.suffix]
        content = photo.encode(done, format, quality=self.quality, metadata=self.metadata)
        remarks = photo.remarks_on(format, metadata=self.metadata) + remarks
        row = new_line(
            shown(ready.file.name),
            written=ready.file.target,
            found_by=ready.region.found_by,
            protected=round(float(mask.mean()), 6) or 1e-6 * bool(mask.any()),  # 0 says that nothing is
            eps=float(own.eps),
            eps_bg=float(own.eps_bg),
            bytes_before=ready.file.path.stat().st_size,
            bytes_after=len(content),
            source_sha256=ready.source_sha256,
            settings=ready.settings,
            remark="; ".join(remark for remark in remarks if remark),
        )
        if not target.parent.resolve().is_relative_to(self.out.resolve()):
            raise UnsegError(f"Expected {target.parent} below {self.out}, found a link that leads away; remove it.")
        written = decode_image(content) if format == "jpeg" else done
        with writing(target):
            return self.manifest.write(target, content, row, original=photo.pixels, written=written, mask=mask)
