"""Our data set, our score and our book-keeping as mmengine wants them.

Imported only after `mm_compat.import_mmseg` or `import_mmdet`, by `mmseg.py` and `dino.py`.
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import confusion, intersection_over_union, mean_iou
from unseg_lib.files import whole_file
from unseg_lib.runtime import Stopwatch, progress
from unseg_lib.seeds import seed_for
from unseg_lib.victims.data import batches
from unseg_lib.victims.run import VictimRun

WORKERS = 8  # processes that prepare images for a GPU; a CPU is busy enough with the training

Truth = Callable[[SegmentationSet, str], dict]  # (set, id) -> what an image's sample has beside its pixels


def label_map(source: SegmentationSet, id: str) -> dict:
    """An image's truth for segmentation."""
    return {"gt_seg_map": source.label(id), "seg_fields": ["gt_seg_map"]}


def loader(run: VictimRun, source: SegmentationSet, pipeline: list[dict], truth: Truth = label_map, *, training: bool):
    """A DataLoader of packed samples: the run's batches for training, image by image for the test."""
    dataset = Images(source, pipeline, run.seed, truth, training=training)
    sampler = EpochBatches(dataset, run) if training else [[i] for i in range(len(source))]
    workers = min(WORKERS, os.cpu_count() or 1) if run.device == "cuda" else 0
    return torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=pseudo_collate, num_workers=workers)


class Images(torch.utils.data.Dataset):
    """A SegmentationSet through a pipeline of an OpenMMLab config, without the steps that read files.

    The augmentation of an image depends on (seed, epoch, image) alone: neither on the worker that makes
    it nor on what was killed before. The truth goes through the training pipeline only; the test reads it anew.
    """

    def __init__(
        self, source: SegmentationSet, pipeline: list[dict], seed: int, truth: Truth = label_map, *, training: bool
    ):
        steps = [step for step in pipeline if not step["type"].endswith(("LoadImageFromFile", "LoadAnnotations"))]
        self.steps = [TRANSFORMS.build(step) for step in steps]
        self.source, self.seed, self.truth, self.training, self.epoch = source, seed, truth, training, 0
        self.metainfo = {"classes": source.classes, "palette": [[0, 0, 0]] * len(source.classes)}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict:
        name = self.source.ids[i]
        seed = seed_for(self.seed, "augmentation", self.epoch, name) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        image = np.ascontiguousarray(self.source.image(name)[..., ::-1])  # BGR, as mmcv reads files
        sample = {"img": image, "img_path": name, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}
        sample |= {"seg_fields": [], "reduce_zero_label": False}
        sample |= self.truth(self.source, name) if self.training else {}
        for step in self.steps:
            sample = step(sample)
        return sample


class EpochBatches(torch.utils.data.Sampler):
    """The batches of `data.batches`, of the epoch that the data set is in."""

    def __init__(self, dataset: Images, run: VictimRun):
        self.dataset, self.run = dataset, run

    def __len__(self) -> int:
        return len(batches(len(self.dataset), self.run.batch_size, self.run.seed, 1))

    def __iter__(self) -> Iterator[list[int]]:
        yield from batches(len(self.dataset), self.run.batch_size, self.run.seed, self.dataset.epoch).tolist()


class Confusion(BaseMetric):
    """Our scores, from predictions at every image's full size."""

    def __init__(self, source: SegmentationSet):
        super().__init__()
        self.source = source

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            prediction = sample["pred_sem_seg"]["data"][0].cpu()
            label = torch.from_numpy(self.source.label(sample["img_path"]))
            self.results.append(confusion(prediction, label, len(self.source.classes)))

    def compute_metrics(self, results: list[torch.Tensor]) -> dict:
        iou = intersection_over_union(torch.stack(results).sum(dim=0))
        return {"miou": mean_iou(iou), "iou": iou}


class Book(Hook):
    """Keeps the history and the time, checks the loss, seeds every epoch and saves the checkpoint after its test."""

    priority = "LOWEST"

    def __init__(self, run: VictimRun):
        self.run, self.history, self.seconds, self.losses = run, [], 0.0, []
        self.watch = Stopwatch()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.history, self.seconds = checkpoint["meta"]["history"], checkpoint["meta"]["seconds"]

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        # the history is in `meta`; mmengine's own holds objects that torch.load rightly refuses to unpickle
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def before_train(self, runner) -> None:
        done = len(self.history)
        left = range(done, self.run.epochs)
        self.shown = progress(left, f"training {self.run.name.split()[0]}", total=self.run.epochs, initial=done)

    def before_train_epoch(self, runner) -> None:
        next(self.shown)
        epoch = runner.epoch + 1
        self.start, self.losses = time.monotonic(), []
        runner.train_dataloader.dataset.epoch = epoch
        torch.manual_seed(seed_for(self.run.seed, "dropout", epoch))  # inside the caller's own_randomness
        self.watch.start()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.watch.lap()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        self.losses.append(outputs["loss"].item())
        self.watch.lap(len(data_batch["inputs"]))
        if not math.isfinite(self.losses[-1]):
            raise UnsegError(
                f"Expected a finite loss, found {self.losses[-1]} in epoch {runner.epoch + 1}, step {batch_idx + 1} "
                f"(learning rate {runner.optim_wrapper.get_lr()['lr'][0]:g}); lower lr or use precision 32."
            )

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        loss = sum(self.losses) / len(self.losses)
        self.history.append({"epoch": runner.epoch, "loss": loss} | metrics)
        self.seconds += time.monotonic() - self.start
        meta = {"epoch": runner.epoch, "iter": runner.iter, "history": self.history, "seconds": self.seconds}
        with whole_file(self.run.checkpoint) as partial:
            runner.save_checkpoint(str(partial.parent), partial.name, meta=meta)
        if runner.epoch == self.run.epochs:
            next(self.shown, None)
