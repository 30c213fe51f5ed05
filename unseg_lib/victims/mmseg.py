"""Victims of mmsegmentation: any of its configs by name, trained by mmengine's runner.

"mmseg:deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512", and with options as mmsegmentation's tools take them,
separated by blanks: "mmseg:NAME model.backbone.depth=18 model.decode_head.channels=64".

It is tested as mmsegmentation does: images resized by the config's test pipeline, scored at full size.
"""

import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_json
from unseg_lib.runtime import device_name, thread_count
from unseg_lib.seeds import seed_for
from unseg_lib.victims import mm_compat
from unseg_lib.victims.data import tensor
from unseg_lib.victims.mmseg_config import adapt, load_config
from unseg_lib.victims.run import VictimRun, summary
from unseg_lib.victims.training import own_randomness, save_predictions, shown

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.evaluator import BaseMetric
    from mmengine.runner import Runner

    from unseg_lib.victims.mmseg_parts import Book, Truth


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    mm_compat.import_mmseg()
    from unseg_lib.victims.mmseg_parts import Confusion, label_map

    check_device(run)
    config = adapt(load_config(run.name), run)
    return fit(run, config, build_model(config, run), label_map, Confusion(run.test), keep_predictions)


def check_device(run: VictimRun) -> None:
    """Refuse what mmengine would not do."""
    from mmengine.device import get_device

    if run.device != get_device():
        raise UnsegError(f"Expected device {get_device()}, which mmengine always uses here, found {run.device}.")
    if run.precision == "bf16" and run.device != "cuda":
        raise UnsegError(f"Expected precision 32, mmengine has bf16 only on a GPU, found bf16 on {run.device}.")


def fit(
    run: VictimRun,
    config: "Config",
    model: torch.nn.Module,
    truth: "Truth",
    metric: "BaseMetric",
    keep: Callable[["Runner", VictimRun], None],
) -> dict:
    """Train `model` by mmengine's runner and test it with `metric`; the result as of `train_victim`, and speed.json.

    truth: what a training image has beside its pixels, see `mmseg_parts`. keep: writes predictions.npz.
    """
    with (
        tempfile.TemporaryDirectory() as logs,
        thread_count(run.threads),
        python_randomness_kept(),
        own_randomness(run.device, run.seed, "mmengine"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "torch.meshgrid")  # mmdetection's calls, which nobody will mend
        runner, book = make_runner(run, config, model, truth, metric, logs)
        runner.train()
        keep(runner, run)
        write_json(run.out / "speed.json", book.watch.report())
    return summary(run.train.classes, book.history, book.seconds / 60, device_name(run.device))


def make_runner(
    run: VictimRun, config: "Config", model: torch.nn.Module, truth: "Truth", metric: "BaseMetric", logs: str
) -> tuple["Runner", "Book"]:
    """mmengine's runner for `run` and the book it keeps; it continues from the checkpoint where there is one."""
    import multiprocessing

    import cv2
    from mmengine.evaluator import Evaluator
    from mmengine.runner import Runner

    from unseg_lib.victims.mmseg_parts import Book, loader

    book = Book(run)
    start = multiprocessing.get_start_method()
    runner = Runner(
        model=model,
        work_dir=logs,
        train_dataloader=loader(run, run.train, config.train_pipeline, truth, training=True),
        val_dataloader=loader(run, run.test, config.test_pipeline, truth, training=False),
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
    return runner, book


def build_model(config: "Config", run: VictimRun) -> torch.nn.Module:
    """The config's model with seeded first weights."""
    from mmengine.registry import MODELS

    with own_randomness("cpu", run.seed, "first weights"), python_randomness_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library to itself
        try:
            model = MODELS.build(config.model)
            model.init_weights()
        except Exception as error:  # another package's model, a weight file without a network, ...
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            hint = "; without a network use init=random" if run.init == "imagenet" else ""
            library = mm_compat.LIBRARIES[config.default_scope]
            raise UnsegError(f"Could not build the {library} config {run.name} ({line}){hint}.") from error
    return model


def keep_predictions(runner: "Runner", run: VictimRun) -> None:
    """Write predictions.npz of some test images, at the run's size."""
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    found = []
    for i in shown(len(run.test)):
        with torch.inference_mode():
            sample = runner.model.test_step(runner.val_dataloader.collate_fn([dataset[i]]))[0]
        prediction = Image.fromarray(sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8))
        prediction = np.array(prediction.resize(run.size[::-1], Image.Resampling.NEAREST))
        found.append((*tensor(run.test, run.test.ids[i], run.size), torch.from_numpy(prediction)))
    save_predictions(run.out / "predictions.npz", *(torch.stack(column) for column in zip(*found)))


@contextmanager
def python_randomness_kept() -> Iterator[None]:
    """Put Python's and numpy's global generators back afterwards: mmcv's augmentation draws from them."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
