"""Victims of mmsegmentation: any of its configs by name, trained by mmengine's runner.

"mmseg:deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512", with options as mmsegmentation's tools take them: "mmseg:NAME
model.backbone.depth=18". Tested as there: images resized by the config's test pipeline, scored at full size. Data set,
score and book-keeping serve mmdetection too.
"""

import multiprocessing
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError, first_line
from unseg_lib.evaluation import confusion
from unseg_lib.files import whole_file, write_json
from unseg_lib.method import LITE0, load_lite0
from unseg_lib.pretrained import hint
from unseg_lib.runtime import Stopwatch, device_name, progress, thread_count
from unseg_lib.seeds import seed_for
from unseg_lib.victims.data import batches
from unseg_lib.victims.openmmlab import LIBRARIES, import_library
from unseg_lib.victims.openmmlab.config import adapt, load_config
from unseg_lib.victims.run import VictimRun, summary
from unseg_lib.victims.training import check_finite, keep_label_maps, own_randomness, scores_of, shown

WORKERS = 8  # processes that prepare images for a GPU; a CPU is busy enough with the training

Truth = Callable[[SegmentationSet, str], dict]  # (set, id) -> what an image's sample has beside its pixels
Keep = Callable[[Runner, VictimRun], None]  # writes predictions.npz


def train(run: VictimRun) -> dict:
    """Train the victim of mmsegmentation that `run` names; the result as of `train_victim`."""
    import_library("mmseg")
    check_device(run)
    config = adapt(load_config(run.name), run)
    return fit(run, config, build_model(config, run), label_map, Confusion(run.test), keep_predictions)


def check_device(run: VictimRun) -> None:
    """Refuse what mmengine would not do."""
    if run.device != get_device():
        raise UnsegError(f"Expected device {get_device()}, which mmengine always uses here, found {run.device}.")
    if run.precision == "bf16" and run.device != "cuda":
        raise UnsegError(f"Expected precision 32, mmengine has bf16 only on a GPU, found bf16 on {run.device}.")


def build_model(config: Config, run: VictimRun) -> nn.Module:
    """The config's model with seeded first weights."""
    with own_randomness("cpu", run.seed, "first weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library to itself
        try:
            model = MODELS.build(config.model)
            model.init_weights()
            if run.init == "imagenet" and config.model.get("backbone", {}).get("model_name") == LITE0:
                load_lite0(model.backbone.timm_model)
        except Exception as error:  # another package's model, a weight file without a network, ...
            found = f"{LIBRARIES[config.default_scope]} config {run.name} ({first_line(error)})"
            more = f"; {hint(f'{config.default_scope}:{run.name}')}" if run.init == "imagenet" else ""
            raise UnsegError(f"Could not build the {found}{more}.") from error
    return model


def fit(run: VictimRun, config: Config, model: nn.Module, truth: Truth, metric: BaseMetric, keep: Keep) -> dict:
    """Train by mmengine's runner, on from a checkpoint if there is one, test by `metric`; as `training.fit`."""
    import cv2

    book, start = Book(run), multiprocessing.get_start_method()
    with (
        tempfile.TemporaryDirectory() as logs,
        thread_count(run.threads),
        own_randomness(run.device, run.seed, "mmengine"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "torch.meshgrid")  # mmdetection's calls, which nobody will mend
        runner = Runner(
            model=model,
            work_dir=logs,
            train_dataloader=loader(run, run.train, config.train_pipeline, truth),
            val_dataloader=loader(run, run.test, config.test_pipeline),
            val_evaluator=Evaluator(metric),
            train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": run.epochs},
            val_cfg={"type": "ValLoop"},
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            default_hooks={"logger": None, "checkpoint": None, "sampler_seed": None},
            custom_hooks=[book],
            load_from=str(run.checkpoint) if run.checkpoint.exists() else None,
            resume=run.checkpoint.exists(),
            env_cfg={"mp_cfg": {"mp_start_method": start, "opencv_num_threads": cv2.getNumThreads()}},
            log_level="ERROR",
            randomness={"seed": seed_for(run.seed, "mmengine") % 2**32},
            default_scope=config.default_scope,
            experiment_name=logs,  # a name of its own: runs of one name share their message hub
        )
        runner.train()
        keep(runner, run)
        if book.watch.samples:  # else nothing was trained now
            write_json(run.out / "speed.json", book.watch.report())
    return summary(run.train.classes, book.history, book.seconds / 60, device_name(run.device))


# what goes in


def label_map(source: SegmentationSet, id: str) -> dict:
    """An image's truth for segmentation."""
    return {"gt_seg_map": source.label(id), "seg_fields": ["gt_seg_map"]}


def loader(run: VictimRun, source: SegmentationSet, pipeline: list[dict], truth: Truth | None = None) -> DataLoader:
    """A DataLoader of packed samples: with their truth the run's batches for training, else image by image."""
    dataset = Images(source, pipeline, run.seed, truth)
    sampler = EpochBatches(dataset, run) if truth else [[i] for i in range(len(source))]
    workers = min(WORKERS, os.cpu_count() or 1) if run.device == "cuda" else 0
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=pseudo_collate, num_workers=workers)


class Images(Dataset):
    """A SegmentationSet through a pipeline of an OpenMMLab config, without the steps that read files.

    The augmentation of an image depends on (seed, epoch, image) alone, not on the worker that makes it or on what was
    killed before. The truth goes through the training pipeline only: the test, for which it is None, reads it anew.
    """

    def __init__(self, source: SegmentationSet, pipeline: list[dict], seed: int, truth: Truth | None = None):
        steps = [step for step in pipeline if not step["type"].endswith(("LoadImageFromFile", "LoadAnnotations"))]
        self.steps = [TRANSFORMS.build(step) for step in steps]
        self.source, self.seed, self.truth, self.epoch = source, seed, truth, 0
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
        sample |= self.truth(self.source, name) if self.truth else {}
        for step in self.steps:
            sample = step(sample)
        return sample


class EpochBatches(Sampler):
    """The batches of `data.batches`, of the epoch that the data set is in."""

    def __init__(self, dataset: Images, run: VictimRun):
        self.dataset, self.run = dataset, run

    def __len__(self) -> int:
        return len(batches(len(self.dataset), self.run.batch_size, self.run.seed, 1))

    def __iter__(self) -> Iterator[list[int]]:
        yield from batches(len(self.dataset), self.run.batch_size, self.run.seed, self.dataset.epoch).tolist()


# what comes out


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
        return scores_of(sum(results))


@torch.inference_mode()
def predicted(runner: Runner, i: int):
    """What mmengine's model says of test image number i."""
    runner.model.eval()
    return runner.model.test_step(pseudo_collate([runner.val_dataloader.dataset[i]]))[0]


def keep_predictions(runner: Runner, run: VictimRun) -> None:
    """Write predictions.npz of some test images, at the run's size."""
    keep_label_maps(run, (predicted(runner, i).pred_sem_seg.data[0] for i in shown(len(run.test))))


class Book(Hook):
    """Keeps the history and the time, checks the loss, seeds every epoch and saves the checkpoint after its test."""

    priority = "LOWEST"

    def __init__(self, run: VictimRun):
        self.run, self.history, self.seconds, self.losses, self.watch = run, [], 0.0, [], Stopwatch()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.history, self.seconds = checkpoint["meta"]["history"], checkpoint["meta"]["seconds"]

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        # the history is in `meta`; mmengine's own holds objects that torch.load rightly refuses to unpickle
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def before_train(self, runner) -> None:
        done = len(self.history)
        self.shown = progress(range(done, self.run.epochs), f"training {self.run.name.split()[0]}", initial=done)

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
        check_finite(self.losses[-1], runner.epoch + 1, batch_idx + 1, runner.optim_wrapper.get_lr()["lr"][0])

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        loss = sum(self.losses) / len(self.losses)
        self.history.append({"epoch": runner.epoch, "loss": loss} | metrics)
        self.seconds += time.monotonic() - self.start
        meta = {"epoch": runner.epoch, "iter": runner.iter, "history": self.history, "seconds": self.seconds}
        with whole_file(self.run.checkpoint) as partial:
            runner.save_checkpoint(str(partial.parent), partial.name, meta=meta)
        if runner.epoch == self.run.epochs:
            next(self.shown, None)
