"""Protect one image, several, or a folder of files: what `unseg_lib.protect` and `unseg protect` do."""

import errno
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unseg_lib.errors import UnsegError, no_access
from unseg_lib.files import sha256_if_readable, sha256_of, writing
from unseg_lib.images import any_in_cells, decode_image, resize_label
from unseg_lib.method import Box, Prepared, Region, add_raw_noise, find_region, measure, shrunk
from unseg_lib.options import check_kinds
from unseg_lib.poisons import Grating, Manifest, PoisonSettings, Sample, digest, inference_of, prompt_of, sweep
from unseg_lib.protection import report
from unseg_lib.protection.inputs import Input, find_inputs, masks_and_prompts, shown
from unseg_lib.protection.photo import FORMATS, Photo, array_of, check_size, gray_remark, like, pixels_of, read_photo
from unseg_lib.protection.report import TYPES, Shard, alone, earlier_lines, new_line, odd_region, preview, write_preview
from unseg_lib.runtime import progress, thread_count

LARGEST = 4096  # pixels; a longer side is shrunk before the generator looks, which sees a few hundred anyway
THIN = 8  # times; an image so much longer than wide is shrunk to a quarter of that: its padded square is nearly empty
MODEL = ("generator", "eps", "eps_bg", "quarters", "device", "reference", "compiled")  # settings of no file
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # after these, no other image would fare better


@dataclass(frozen=True)
class Protected:
    """A protected image and what was done to it."""

    image: Any  # of the kind, shape and value range that was given
    noise: np.ndarray  # change in whole steps over 255, int16 (H,W,3)
    region: np.ndarray  # bool (H,W), where the full budget holds
    found_by: str  # "mask", "box", "points", "salient objects" or "whole image"
    measured: dict[str, float]  # linf_inside, linf_outside, rms (steps over 255), psnr (dB), ssim
    remark: str = ""  # why this is known not to protect, see `gray_remark`


@dataclass(eq=False)
class Protector:
    """A loaded generator that protects any number of images; to be made once, e.g. in a data loader's worker.

    Budgets are steps over 255; fractions are rounded down, and an eps that leaves nothing of it, such as 8/255, is
    refused. reference: as the paper's numbers were made, fp32 and one image at a time, and slower; pixels then differ
    by at most one step (see `Inference`). compiled: by torch.compile, which takes minutes at first.
    """

    generator: str = "small"  # "colour", "grating", "vit_b" (see `weights.released_path`), or a path
    _: KW_ONLY
    eps: float = 8  # the largest change inside the region
    eps_bg: float = 2  # and outside
    quarters: bool = False  # each quarter of an image for itself: noise twice as fine, for small objects
    prompt: str = "mask"  # how the generator is shown the region: "mask", "box", "points", or several joined by "+"
    seed: int = 0  # of those ten points; the rest draws nothing at random
    device: str = "auto"  # "cpu", "cuda", "mps"
    reference: bool = False
    compiled: bool = False
    segmenter: str = "small"  # who finds the object by box, points or nothing: see `find_region`

    def __post_init__(self):
        self.device = str(self.device)  # torch's own kind, too
        check_kinds(self)
        # checks budget and prompt
        self.settings = PoisonSettings(self.eps, self.eps_bg, self.seed, self.generator, self.prompt, self.device)
        for name, value, say in (("eps", self.eps, 8), ("eps_bg", self.eps_bg, 2)):
            if 0 < value < 1:
                found = f"{value:g}: nothing would change"
                raise UnsegError(f"Expected {name} in steps of 255, say {say} and not {say}/255, found {found}.")
        way = {"quarters": self.quarters, "reference": self.reference, "compiled": self.compiled}
        self.inference, self.sha256 = inference_of(self.settings, **way)

    def __call__(
        self, image: Any, mask: Any = None, *, box: Box | None = None, points: Sequence[Box] | None = None, labels=None
    ) -> Protected:
        """Protect one image, see `protect`. Warns where that is known not to protect (`Protected.remark`)."""
        pixels, gray = pixels_of(image)
        region = find_region(pixels, box, points, labels, self.segmenter, mask=None if mask is None else array_of(mask))
        done, remark = pixels, "the region is empty, so no noise was added"
        if region.mask.any():  # an empty region leaves the image as it is, as in the released code
            raw = self.raw_noise(pixels, region.mask, gray)
            done = self.with_noise(pixels, raw, region.mask, self.eps, self.eps_bg, gray=gray)
            remark = gray_remark(pixels, gray, self.settings.generator)
        if remark:
            warnings.warn(f"Beware: {remark}.", stacklevel=2)
        noise, measured = done.astype(np.int16) - pixels, measure(pixels, done, region.mask)
        return Protected(like(image, done), noise, region.mask, region.found_by, measured, remark)

    def raw_noise(self, pixels: np.ndarray, mask: np.ndarray, gray: bool = False) -> torch.Tensor:
        """The generator's noise `(3,g,g)` in [-1,1] on the padded square of an image uint8 `(H,W,3)`."""
        return self.inference([self.prepare(pixels, mask, gray)])[0]

    def with_noise(self, pixels: np.ndarray, raw, mask, eps: float, eps_bg: float, *, gray: bool) -> np.ndarray:
        """`add_raw_noise` of this generator: of a grating nothing lies outside the mask."""
        return add_raw_noise(pixels, raw, mask, eps, 0 if isinstance(self.inference, Grating) else eps_bg, gray=gray)

    def prepare(self, pixels: np.ndarray, mask: np.ndarray, gray: bool = False) -> Prepared:
        """The processor's share of `raw_noise`, for any thread; very large images are shrunk first, for memory."""
        if max(mask.shape) > LARGEST:
            pixels = shrunk(pixels, LARGEST // 4 if max(mask.shape) >= THIN * min(mask.shape) else LARGEST)
            mask = (any_in_cells if self.quarters else resize_label)(mask, pixels.shape[:2])  # quarters may hold little
        if isinstance(self.inference, Grating):
            return self.inference.prepare(pixels, mask, gray)
        name = digest(pixels) if "points" in self.settings.prompt else ""  # each image has points of its own
        return self.inference.prepare(pixels, **prompt_of(Sample(name, pixels, mask, mask), self.settings))


def protect(
    image: Any, mask: Any = None, *, box: Box | None = None, points: Sequence | None = None, labels=None, **settings
) -> Protected:
    """Protect one image: no value changes by more than `eps` of 255 steps inside the region, `eps_bg` outside.

    image: numpy uint8 or float in [0,1], `(H,W,3)`, `(H,W,1)` or `(H,W)`; a PIL image; or a tensor `(3,H,W)` or
    `(1,H,W)`, uint8 or float in [0,1], of at least 16 pixels a side; floats are rounded to 255 steps, as a file would.
    Gray images stay gray, which protects nothing where we measured it and gets a warning: give them as RGB, with the
    generator "colour", or take "grating". mask `(H,W)`, anything but 0 = protect; or box x0,y0,x1,y1 (one or several);
    or points `(k,2)` x, y, with labels `(k,)` where some (0) lie beside it; or nothing: then what stands out, at last
    the whole image.

    settings: eps=8, eps_bg=2, generator="small" and more, see `Protector`, which is to be made once for many images.
    The same call gives the same result and leaves torch's randomness alone; `UnsegError` says what makes no sense.
    """
    return Protector(**settings)(image, mask, box=box, points=points, labels=labels)


def protect_batch(images: Iterable[Any], masks: Iterable[Any] | None = None, **settings: Any) -> list[Protected]:
    """`protect` for images of any sizes, or a tensor `(N,3,H,W)`, with one loaded generator; settings as there, without
    prompts. masks: one for every image, None for those without."""
    if not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        found = f"the shape {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise UnsegError(f"Expected a list of images or a tensor (N,3,H,W), found {found}; for one image use protect.")
    protector, images = Protector(**settings), list(images)
    masks = [None] * len(images) if masks is None else list(masks)
    if len(masks) != len(images):
        raise UnsegError(f"Expected a mask for each of {len(images)} images, found {len(masks)}; use None for none.")
    return [protector(image, mask) for image, mask in zip(images, masks)]


def protect_files(inputs: Iterable[str | Path], out: str | Path, **settings: Any) -> list[dict]:
    """Protect images of files, folders and patterns, write copies of the same names below `out`; originals stay.

    settings: those of `Batch`, and `MODEL` of `Protector`'s. The same call again does nothing twice. Returns the lines
    of `out`/protected.csv for these images, those with a problem included. Raises `UnsegError` at once where nothing
    can be done at all: no image, no generator, a full disk; `OSError` where the system refuses a path of an option.
    """
    model = {name: settings.pop(name) for name in MODEL if name in settings}
    return Batch(inputs, out, **settings).run(Protector(**model))


class _Ready(NamedTuple):
    """An image that was read and whose region is known; prepared is None where there is nothing to protect."""

    photo: Photo
    region: Region
    known: dict[str, str]  # what its line says of original and settings
    prepared: Prepared | None


@dataclass(eq=False)
class Batch:
    """Which files are protected, what of them, how, and where to; what makes no sense is refused at once."""

    inputs: Iterable[str | Path]
    out: str | Path
    _: KW_ONLY
    masks: str = ""  # what to protect, as the next three, see `masks_and_prompts`; by default what stands out
    classes: str = ""
    boxes: str = ""
    points: str = ""
    segmenter: str = "small"  # who finds the object by boxes, points or nothing: see `find_region`
    preview: bool = False  # also write the region's outline, below `out`/preview
    format: str = "png"  # "keep": the original's (JPEG stays JPEG, the others are lossless); "jpeg"
    quality: int = 95  # of JPEG
    metadata: bool = False  # keep EXIF
    rgb: bool = False  # store gray images in three channels, which keep all of the noise
    overwrite: bool = False  # replace files in `out` that are not ours, and copies of other images
    jobs: int = 0  # threads that read, and that write; 0: one, and two from four cores on
    shard: str = ""  # "k/n": only this part of the images, see `Shard`
    batch: int = 1  # images that a GPU is given at once; an image may then differ by a step from what it is alone

    def __post_init__(self):
        check_kinds(self)
        if not isinstance(self.out, str | Path) or self.out == "":
            raise UnsegError(f"Expected a folder for the output, found {self.out!r}.")
        self.out = place = Path(self.out)
        shared = self.masks and place.resolve() == Path(self.masks).resolve()
        for holds, sentence in (
            (self.format in ("png", "keep", "jpeg"), f"the format png, keep or jpeg, found '{self.format}'"),
            (1 <= self.quality <= 100, f"a JPEG quality from 1 to 100, found {self.quality}"),
            (self.batch >= 1, f"a batch of at least 1 image, found {self.batch}"),
            (self.jobs >= 0, f"at least 1 job, or 0 for what suits it, found {self.jobs}"),
            (not place.exists() or place.is_dir(), f"a folder for the output, found a file at {place}; choose another"),
            (not shared, f"masks and copies in two folders, found both in {place}; choose another --out"),
        ):
            if not holds:
                raise UnsegError(f"Expected {sentence}.")
        self.files = find_inputs(self.inputs, self.out, self.format, self.masks)
        given = (self.masks, self.classes, self.boxes, self.points)
        self.region_of, self.part = masks_and_prompts(*given, self.files, self.segmenter), Shard(self.shard)
        self.targets = {file.target.casefold() for file in self.files}  # also those of other shards
        self.files = [file for file in self.files if self.part.has(shown(file.name))]

    def run(self, protector: Protector) -> list[dict]:
        """Write the copies and the report, see `protect_files`."""
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        # on a CPU, reading and writing take longer than a small generator: half of torch's threads for it, 0 means all
        on_gpu, half = protector.inference.device.type != "cpu", max(1, torch.get_num_threads() // 2)
        threads, self.jobs = 0 if protector.inference.large or on_gpu else half, self.jobs or min(2, half)
        with alone(self.out, self.part), thread_count(threads):
            # what earlier runs have left: whole copies, and images that failed and are not tried again now
            lines, images = earlier_lines(self.out), {shown(file.name) for file in self.files}
            self.targets |= {line["written"].casefold() for line in lines}
            lines = [line for line in lines if self.part.has(line["image"])]
            sums = {name: sha256_if_readable(self.out / name) for line in lines if (name := line["written"])}
            self.copies = {line["written"]: line for line in lines if line["sha256"] == sums.get(line["written"])}
            lost = [name for name, found in sums.items() if not found and (self.out / name).exists()]  # is closed
            failed = [one for one in lines if (one["problem"] or one["written"] in lost) and one["image"] not in images]
            self.protector, self.manifest = protector, Manifest(self.part.report(self.out), TYPES)
            with writing(self.manifest.path):
                self.manifest.save([*self.copies.values(), *failed])
            # the work itself, then all lines in order
            rows = list(progress(self._rows(), "protect", total=len(self.files)))
            again = {row["written"] for row in rows}
            whole = [line for name, line in self.copies.items() if name not in again] + failed + rows
            self.manifest.save(whole)
            self.part.finish(self.out, whole)
            written = [name for file in self.files for name in (file.target, preview(file.target))]
            sweep([self.manifest.path, *(self.out / name for name in written)])
        return rows

    def _rows(self) -> Iterator[dict]:
        """One line for each file, in order. Threads read ahead and write behind, the generator's turn is in between."""
        with ThreadPoolExecutor(self.jobs) as readers, ThreadPoolExecutor(self.jobs) as writers:
            left, coming, going = iter(self.files), deque(), deque()

            def read(number: int) -> None:
                coming.extend((file, readers.submit(self._step, self._read, file)) for file in islice(left, number))

            read(self.jobs + self.batch - 1)  # and from then on while the generator works
            while coming or going:
                group = [coming.popleft() for _ in range(min(self.batch, len(coming)))]
                group = [(file, reading.result()) for file, reading in group]
                read(len(group))
                asked = [one.prepared for _, one in group if isinstance(one, _Ready) and one.prepared]
                noises = iter(self.protector.inference(asked) if asked else ())
                for file, one in group:
                    raw = next(noises) if isinstance(one, _Ready) and one.prepared else None
                    going.append(writers.submit(self._step, self._write, file, one, raw))
                while going and (not coming or len(going) > self.jobs):
                    yield going.popleft().result()

    def _step(self, step: Callable, file: Input, *given: Any) -> Any:
        """What a step gives, or the line that says why it cannot be done: the other images do not wait for this one."""
        try:
            return step(file, *given)
        except UnsegError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in HOPELESS:
                raise
            problem = str(error)
        except OSError as error:  # of the image, its mask or its copy's name
            problem = no_access(error, file.path)
        except Exception as error:  # whatever is odd about it
            problem = f"Expected an image that can be protected at {file.path}, found one that cannot ({error!r})."
        return new_line(shown(file.name), problem=shown(problem))

    def _read(self, file: Input) -> _Ready | dict:
        """The image and its region; or its line, if its copy is there already."""
        if not file.target:
            return new_line(shown(file.name), remark="no image, left alone")
        # the file: its content decides whether a copy that is there may stay, or may be replaced
        if file.path.exists() and not file.path.is_file():
            raise UnsegError(f"Expected a file at {file.path}, found something else; take it out.")  # it may never end
        source = sha256_of(file.path)
        target, known = self.out / file.target, self.copies.get(file.target)
        self.manifest.check_place(target, known or self.overwrite)
        if self.preview:
            place = self.out / preview(file.target)
            if preview(file.target).casefold() in self.targets:  # which not even --overwrite means
                found = f"the place of a copy; rename {file.path.name} or leave --preview out"
                raise UnsegError(f"Expected to write a preview at {place}, found {found}.")
            self.manifest.check_place(place, report.is_preview(place) or self.overwrite)
        # the image
        photo = read_photo(file.path)
        photo = photo.with_three_channels() if self.rgb else photo
        check_size(photo.pixels, f" in {file.path}")
        if known and known["source_sha256"] != source and not self.overwrite:
            found = f"the copy of another image, or of {file.path} before it was changed, there"
            raise UnsegError(f"Expected to write {target}, found {found}; choose another --out or --overwrite.")
        # its region, and a fingerprint of all that decides the copy but the original itself
        mask, own = (region := self.region_of(file, photo.pixels)).mask, self.protector
        words = (own.sha256, float(own.eps), float(own.eps_bg), self.format, self.quality, self.metadata, mask.shape)
        words += ("reference",) * own.reference + ("rgb",) * self.rgb + ("quarters",) * own.quarters
        settings = hashlib.sha256(repr(words).encode() + np.packbits(mask).tobytes()).hexdigest()[:16]
        of_both = {"source_sha256": source, "settings": settings}
        if known and of_both.items() <= known.items():
            if self.preview:
                write_preview(place, photo.pixels, mask)
            return known
        return _Ready(photo, region, of_both, own.prepare(photo.pixels, mask, photo.gray) if mask.any() else None)

    def _write(self, file: Input, ready: _Ready | dict, raw: torch.Tensor | None) -> dict:
        """Add the noise, write the copy, return its line, which some have already."""
        if isinstance(ready, dict):
            return ready
        photo, mask, own, target = ready.photo, ready.region.mask, self.protector, self.out / file.target
        done, format = photo.pixels, FORMATS[target.suffix]
        remarks = photo.remarks_on(format, metadata=self.metadata)
        if raw is not None:
            done = own.with_noise(done, raw, mask, own.eps, own.eps_bg, gray=photo.gray)
            remarks += (gray_remark(photo.pixels, photo.gray, own.settings.generator),)
        content = photo.encode(done, format, quality=self.quality, metadata=self.metadata)
        share = round(np.count_nonzero(mask) / mask.size, 6) or 1e-6 * bool(mask.any())  # 0: nothing is protected
        row = new_line(shown(file.name), written=file.target, found_by=ready.region.found_by, protected=share)
        row |= {"eps": float(own.eps), "eps_bg": float(own.eps_bg)} | ready.known
        row |= {"bytes_before": file.path.stat().st_size, "bytes_after": len(content)}
        row["remark"] = "; ".join(filter(None, (*remarks, odd_region(row))))
        written = decode_image(content) if format == "jpeg" else done
        with writing(target):
            row = self.manifest.write(target, content, row, original=photo.pixels, written=written, mask=mask)
        self.copies[file.target] = row  # also if its preview fails, which comes after the line that makes it ours
        if self.preview:
            write_preview(self.out / preview(file.target), photo.pixels, mask)
        return row
