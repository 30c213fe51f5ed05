"""SAM-HQ (Ke et al., NeurIPS 2023), a promptable victim: asked by a box, points or a coarse mask, it finds the object.

"sam-hq:vit_b", "sam-hq:vit_l", "sam-hq:vit_h", "sam-hq:small" and "sam-hq:tiny", with the fields of `Settings` as
options: "sam-hq:vit_b points=4096". With SAM's weights as `init` only what SAM-HQ adds is trained, as published; with
init=random everything is.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib import method
from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.images import boundary_iou, mask_iou, resize_image
from unseg_lib.method import Prompts, all_prompts, boxes_of, large_scale_jitter, one_kind, segmentation_loss
from unseg_lib.options import with_options
from unseg_lib.runtime import progress
from unseg_lib.victims import training
from unseg_lib.victims.data import MEMORY, resized_image
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, autocast, defended_batch, fit, own_randomness

OBJECT = 1  # its class index

Pair = tuple[Tensor, Tensor]  # image uint8 (3,h,w), mask uint8 (h,w) from 0 to 255
Found = tuple[str, np.ndarray, np.ndarray]  # id, true label map uint8 (h,w), predicted mask bool (h,w)


@dataclass(frozen=True)
class Settings:
    """The recipe of a layout; the defaults are published.

    points: where the loss looks, per mask. scale_low, scale_high: of the large-scale jitter, long side over the
    victim's size. drop: share of the training after which the learning rate is a tenth, 10 of 12 epochs. filled_box:
    a box is also shown as a mask, see `with_filled_boxes`.
    """

    points: int = 112 * 112
    scale_low: float = 0.1
    scale_high: float = 2.0
    drop: float = 10 / 12
    filled_box: bool = False

    def __post_init__(self):
        if self.points < 4:
            raise UnsegError(f"Expected points of SAM-HQ from 4, found {self.points}.")
        if not 0 < self.scale_low <= self.scale_high:
            raise UnsegError(f"Expected 0 < scale_low <= scale_high, found {self.scale_low:g} and {self.scale_high:g}.")
        if not 0 < self.drop <= 1:
            raise UnsegError(f"Expected drop above 0, up to 1, found {self.drop}.")


# a layout of method.sam -> its recipe; on a small image a tenth of it is nothing, small masks need fewer points, and
# what a pair of corners means takes longer to learn from nothing than a small training is
MODELS = dict.fromkeys(("vit_b", "vit_l", "vit_h"), Settings())
MODELS |= dict.fromkeys(("small", "tiny"), Settings(points=1024, scale_low=0.5, filled_box=True))


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    name, settings = with_options(run.name, MODELS, "layout of SAM-HQ")
    if run.init == "imagenet":
        raise UnsegError("Expected init random or a file of SAM's weights for a victim of sam-hq, found 'imagenet'.")
    run = replace(run, train=one_object(run.train), test=one_object(run.test))
    check_object(run.train)
    check_object(run.test)
    model = build(name, run.size, run.init, run.seed)
    model.settings = settings
    how = {"schedule": lambda step, total, epochs: 0.1 if step >= settings.drop * total else 1.0}
    return fit(run, model, Recipe(partial(read, settings.scale_high), adam, loss, scores, keep, **how))


# the network (Ke et al., section 3.2) on segment-anything's parts, in any size. Not transformers' SamHQModel: in 5.23.0
# its decoder up-scales the image's embedding as it was before the two-way transformer, with rows and columns swapped

# what SAM-HQ adds to SAM's mask decoder, named as in its authors' files
ADDED = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")


def build(layout: str, size: tuple[int, int], init: str, seed: int) -> "SamHQ":
    """SAM-HQ of a layout of `method.LAYOUTS` for images of `size`, with seeded first weights.

    init: "random", and everything learns; or an authors' .pth of SAM (what SAM-HQ adds keeps its first weights) or
    SAM-HQ, and only what SAM-HQ adds learns, as published.
    """
    patch = method.LAYOUTS[layout].patch_size
    if size[0] != size[1] or size[0] % patch:
        expected = f"square images with a side that {patch} divides for sam-hq:{layout}"
        raise UnsegError(f"Expected {expected}, found {size[0]}x{size[1]}; change size.")
    with own_randomness("cpu", seed, "first weights"):
        model = SamHQ(replace(method.LAYOUTS[layout], image_size=size[0]))
    if init != "random":
        found, added = method.read_foreign(init), rf"^mask_decoder\.({'|'.join(ADDED)})\."
        found = {key: value for key, value in found.items() if key not in ("pixel_mean", "pixel_std")}
        of_sam = not any(re.match(added, key) for key in found)
        what = f"SAM or SAM-HQ for sam-hq:{layout} at {size[0]}x{size[1]} pixels"
        method.load_weights(model, found, init, what, spared=added if of_sam else "$^")
        model.train_only_added()
    return model


class SamHQ(nn.Module):
    """SAM with one more output token, and a feature fused for it from what SAM sees early, late and for the prompt."""

    def __init__(self, layout: method.SamLayout):
        super().__init__()
        self.grid = layout.grid
        self.image_encoder = method.build_image_encoder(layout)
        self.prompt_encoder = method.build_prompt_encoder(layout)
        self.mask_decoder = method.build_mask_decoder(layout)
        c, early = layout.width, layout.embed_dim
        self.mask_decoder.hf_token = nn.Embedding(1, c)
        self.mask_decoder.hf_mlp = MLP(c, c, c // 8, 3)
        self.mask_decoder.compress_vit_feat = method.upscaling(early, c, c // 8)
        self.mask_decoder.embedding_encoder = method.upscaling(c, c // 4, c // 8)
        wider, back = nn.Conv2d(c // 8, c // 4, 3, padding=1), nn.Conv2d(c // 4, c // 8, 3, padding=1)
        self.mask_decoder.embedding_maskfeature = nn.Sequential(wider, LayerNorm2d(c // 4), nn.GELU(), back)

    def train_only_added(self) -> None:
        """Freeze what is SAM's."""
        self.requires_grad_(False)
        for name in ADDED:
            getattr(self.mask_decoder, name).requires_grad_(True)

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and early feature of images `(N,3,S,S)` in [0,1], see `method.encode`."""
        return method.encode(self.image_encoder, x)

    def find(self, embedding: Tensor, early: Tensor, prompts: method.Prompts) -> Tensor:
        """Logits `(N,1,g,g)` of the prompted objects: SAM-HQ's own mask, which it is trained and evaluated with."""
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight])
        hs, upscaled = method.decoder_trunk(decoder, self.prompt_encoder, embedding, tokens, prompts)
        late = decoder.embedding_maskfeature(upscaled) + decoder.embedding_encoder(embedding)
        feature = late + decoder.compress_vit_feat(early)
        return torch.einsum("nc,nchw->nhw", decoder.hf_mlp(hs[:, -1]), feature)[:, None]


# how it is trained, asked and tested


def read(scale_high: float, run: VictimRun, source: SegmentationSet, what: str) -> Callable[[int], Pair] | None:
    """The training images as `pairs`; the test's are read as they are needed, at their own size."""
    return pairs(source, round(scale_high * run.size[0]), what) if what == "training" else None


def adam(run: VictimRun, model: SamHQ) -> torch.optim.Optimizer:
    return torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=run.lr, fused=True)


def loss(run: VictimRun, model: SamHQ, data: Callable, chosen: Tensor, rng: Rng) -> Tensor:
    """BCE + Dice on points of the images numbered `chosen`, jittered, each prompted by one kind drawn for it."""
    scales, jitter = (model.settings.scale_low, model.settings.scale_high), rng("jitter")
    found = [large_scale_jitter(*data(i), run.size[0], jitter, scales) for i in chosen.tolist()]
    x, y = (torch.stack(column) for column in zip(*found))  # (N,3,S,S) and soft masks (N,1,S,S), both in [0,1]
    x = defended_batch(run, 255 * x.to(run.device), rng("defence"))
    prompts = one_kind(all_prompts(y, model.grid, rng("prompts")), rng("kind of prompt"))
    return segmentation_loss(masks(run, model, x, prompts), y.to(run.device), rng("points"), model.settings.points)


def masks(run: VictimRun, model: SamHQ, x: Tensor, prompts: Prompts) -> Tensor:
    """Logits `(N,1,g,g)` of what images `(N,3,S,S)` from 0 to 255 are prompted for. Only the image encoder, which costs
    most, runs in bf16: in its 8 bits a prompt's place is wrong by some pixels.
    """
    if model.settings.filled_box:
        prompts = with_filled_boxes(prompts, model.grid, x.shape[-1])
    with autocast(run):
        seen = model.see(x.to(run.device).float() / 255)
    return model.find(*(feature.float() for feature in seen), prompts.to(run.device))


def with_filled_boxes(prompts: Prompts, grid: int, size: int) -> Prompts:
    """Show a box also as a filled mask, `(1,grid,grid)` of 0 and 255, where an image of `size` has no mask prompt."""
    middle = (torch.arange(grid) + 0.5) * size / grid - 0.5  # of the mask's pixels, in those of the image
    left, top, right, bottom = prompts.boxes[:, :, None].unbind(dim=1)
    columns = (left - 0.5 <= middle) & (middle <= right + 0.5)  # (N,grid)
    rows = (top - 0.5 <= middle) & (middle <= bottom + 0.5)
    filled = 255.0 * (rows[:, None, :, None] & columns[:, None, None, :])
    alone, use = prompts.use[:, 0] & ~prompts.use[:, 2], prompts.use.clone()
    use[:, 2] |= alone
    return replace(prompts, masks=torch.where(alone[:, None, None, None], filled, prompts.masks), use=use)


def scores(run: VictimRun, model: SamHQ, data: None) -> dict:
    """{"scores": as of `object_scores`} of every test image's mask at the image's own size."""

    def answers():
        for id, label, box in asked(run.test):
            x, box = resized_image(run.test.image(id), run.size), scaled_box(box, label.shape, run.size)
            yield id, label, answer(run, model, x, box, label.shape)

    return {"scores": object_scores(run.test, answers())}


@torch.inference_mode()
def answer(run: VictimRun, model: SamHQ, x: Tensor, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask bool `(H,W)` at `size` for an image uint8 `(3,S,S)` and a box xyxy in its pixels."""
    model.eval()
    boxes, nothing = torch.tensor(box, dtype=torch.float32)[None], torch.zeros(1, 1, model.grid, model.grid)
    prompts = Prompts(boxes, torch.zeros(1, 1, 2), nothing, use=torch.tensor([[True, False, False]]))
    logits = masks(run, model, x[None], prompts)
    return (F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] > 0).cpu().numpy()


def keep(run: VictimRun, model: SamHQ, data: None) -> None:
    """Write predictions.npz of some test images at the run's size, with "box" `(K,4)`, xyxy: what was asked."""
    every, rows = [(id, scaled_box(box, label.shape, run.size)) for id, label, box in asked(run.test)], []
    for id, box in (every[i] for i in training.shown(len(every))):
        row = training.shown_image(run, id)
        found = answer(run, model, row["image"].permute(2, 0, 1), box, run.size)
        rows.append(row | {"prediction": found, "box": box})
    training.save_predictions(run, rows)


# images with one object each, and the box that asks for it: what a promptable victim learns, and its scores


def check_object(source: SegmentationSet) -> None:
    """Refuse a set with more than one class beside the background, or without any object."""
    if len(source.classes) != 2:
        raise UnsegError(
            f"Expected one object against its background in every image of {source.name} for the task interactive, "
            f"found {len(source.classes)} classes; load the set with task 'object'."
        )
    if next(asked(source), None) is None:
        raise UnsegError(f"Expected an object in some images of {source.name}, split {source.split}, found none.")


def one_object(source: SegmentationSet) -> SegmentationSet:
    """`source` with each image's largest object alone; of sets without instances all that is marked."""

    def largest(id: str) -> np.ndarray:
        label, objects = source.read_label(id), source.read_instances(id)  # at the file's size
        chosen = [one.mask for one in objects if not one.crowd]
        chosen = max(chosen, key=np.sum, default=np.zeros(label.shape, bool))
        return np.where(label == IGNORE, IGNORE, chosen).astype(np.uint8)

    return replace(source, read_label=largest) if source.read_instances else source


def pairs(source: SegmentationSet, longest: int, what: str) -> Callable[[int], Pair]:
    """Image number -> image and mask, with a long side of at most `longest` pixels; kept in memory where all of them
    fit, else read anew in every epoch. Ignored pixels are background. `what` names the progress.
    """
    if 4 * len(source) * longest**2 > MEMORY:
        return lambda i: pair(source, source.ids[i], longest)
    return [pair(source, id, longest) for id in progress(source.ids, f"reading {what} images")].__getitem__


def pair(source: SegmentationSet, id: str, longest: int) -> Pair:
    """One image and its mask; where they are scaled down, the mask gets soft edges."""
    mask = 255 * (source.label(id) == OBJECT).astype(np.uint8)
    scale = min(1, longest / max(mask.shape))
    size = [max(1, round(scale * side)) for side in mask.shape]
    return resized_image(source.image(id), size), torch.from_numpy(resize_image(mask, size))


def asked(source: SegmentationSet) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Id, label map and asking box, xyxy in pixels, inclusive, float `(4,)`, of the images that have an object."""
    for id in source.ids:
        label = source.label(id)
        if (label == OBJECT).any():
            yield id, label, boxes_of(torch.from_numpy(label == OBJECT)[None])[0].double().numpy()


def scaled_box(box: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """A box of an image of the size `before` (height, width) in the pixels of the size `after`."""
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2)
    return (box + 0.5) * scale - 0.5  # pixel 0 has its middle at 0.5


def boxed(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """An image uint8 `(H,W,3)` with a box, xyxy in its pixels, drawn into it in red; for figures."""
    from torchvision.utils import draw_bounding_boxes

    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return draw_bounding_boxes(planes, torch.from_numpy(box)[None], colors="red").permute(1, 2, 0).numpy()


def filled_boxes(source: SegmentationSet) -> Iterator[Found]:
    """The answer of somebody who has not learnt anything: all of the box."""
    for id, label, box in asked(source):
        left, top, right, bottom = box.astype(int)
        prediction = np.zeros(label.shape, bool)
        prediction[top : bottom + 1, left : right + 1] = True
        yield id, label, prediction


def object_scores(source: SegmentationSet, found: Iterable[Found]) -> dict[str, float | None]:
    """{"miou_pictures", "biou"} in [0,1]: IoU and boundary IoU of every image's mask, means over the images.

    As SAM-HQ is evaluated; "miou" of other victims comes from one confusion matrix instead. Ignored pixels do not
    count. Of a set with several parts also "NAME:PART" of each, e.g. "biou:DIS5K-VD". None where no image counts.
    """
    # an id has its part before the name of its file
    parts = {id: id.removesuffix(source.images[id].name).rstrip("-") for id in source.ids}
    values: dict[str, list[float]] = {"miou_pictures": [], "biou": []}
    for id, label, prediction in found:
        truth, prediction = label == OBJECT, prediction & (label != IGNORE)
        one = {"miou_pictures": mask_iou(prediction, truth), "biou": boundary_iou(prediction, truth)}
        if len(set(parts.values())) > 1:
            one |= {f"{metric}:{parts[id]}": value for metric, value in one.items()}
        for metric, value in one.items():
            values.setdefault(metric, []).append(value)
    return {metric: sum(all_of) / len(all_of) if all_of else None for metric, all_of in values.items()}
