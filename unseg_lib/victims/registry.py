"""Which victims there are, and the one function that trains any of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name

from unseg_lib.datasets import SegmentationSet
from unseg_lib.defenses import defended, defenses_of
from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.files import read_json, write_json
from unseg_lib.pretrained import located
from unseg_lib.runtime import choose_device, keep_freed_memory, usable_precision
from unseg_lib.victims.data import mixed
from unseg_lib.victims.run import INIT, LABEL_TASKS, VictimRun, check, claim

TRAINING_PARTS = ("batch", "prepare", "loss")  # of a defence, beside changed images


@dataclass(frozen=True)
class Victim:
    """A family of victims: train(run) -> result, see `train_victim`, or that function's "package.module:name", the
    tasks it learns, the `TRAINING_PARTS` of a defence it heeds, whether `init` may be a file, and words for tables.
    """

    train: Callable[[VictimRun], dict] | str
    tasks: tuple[str, ...] = LABEL_TASKS
    defenses: tuple[str, ...] = TRAINING_PARTS
    files: bool = False
    words: str = ""

    def __call__(self, run: VictimRun) -> dict:
        return (resolve_name(self.train) if isinstance(self.train, str) else self.train)(run)


HERE, MASK_TASKS = "unseg_lib.victims", (*LABEL_TASKS, "instance", "panoptic")
# family -> victim; "unet-resnet18" is smp's, "mmseg:CONFIG" is mmseg's
VICTIMS: dict[str, Victim] = {
    "smp": Victim(f"{HERE}.smp:train", words="architecture-encoder of segmentation-models-pytorch"),
    # mmengine's runner knows nothing of our training loop
    "mmseg": Victim(f"{HERE}.openmmlab.runner:train", defenses=(), words="config of mmsegmentation"),
    "deeplabv1": Victim(f"{HERE}.deeplabv1:train", files=True, words="DeepLabV1 on WideResNet-38"),
    "deeplabv3": Victim(f"{HERE}.deeplabv3:train", files=True, words="DeepLabV3 by the recipe of DDC-AT"),
    "mask2former": Victim(f"{HERE}.mask2former:train", MASK_TASKS, ("batch", "prepare"), True, "Mask2Former"),
    "sam-hq": Victim(f"{HERE}.sam_hq:train", ("interactive",), ("batch",), True, "SAM-HQ, asked by boxes and points"),
    "rsprompter": Victim(f"{HERE}.rsprompter:train", ("instance",), ("batch", "prepare"), True, "RSPrompter-query"),
    "dino": Victim(f"{HERE}.openmmlab.dino:train", ("detection",), (), True, "DINO and other detectors of mmdetection"),
}


def train_victim(
    victim: str,
    train: SegmentationSet,
    test: SegmentationSet,
    out: str | Path,
    *,
    size: tuple[int, int],
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    init: str = "random",
    defense: str = "none",
    clean: SegmentationSet | None = None,
    clean_fraction: float = 0.0,
    clean_only: bool = False,
    task: str = "",
    threads: int = 0,
    device: str = "auto",
    precision: str = "32",
) -> dict:
    """Train `victim` on `train`, test it on `test` after every epoch, and return its scores.

    victim: "unet-resnet18" (architecture-encoder of segmentation-models-pytorch), or "FAMILY:NAME", as "mmseg:CONFIG";
    see `VICTIMS` and the families' files. size: (height, width) the images are resized to; of mmseg and deeplab the
    training crop, of dino see there. init: first weights of the encoder, "random" or "imagenet"; of some families also
    a file. defense: of the training, as "jpeg quality=50+grayscale". clean_fraction: this share of the images of
    `train` is replaced by those of `clean`, and with clean_only the others are left out. task: "instance" and
    "panoptic" learn from instance masks, "detection" from their boxes, "interactive" from masks and prompts;
    otherwise label maps are learnt, as the sets were read. threads: 0 leaves torch's number.

    Returns {"classes": [C names], "epochs": [{"epoch": from 1, "loss", "miou", "iou": [C]}], "final" and "peak":
    {"miou", "iou"}, "minutes", "device", "precision" (the one computed in)}; scores in [0,1], None for a class the test
    labels lack; peak is the best epoch of each score by itself. Of tasks other than label maps an epoch has
    "scores": {metric: in [0,1] or None} instead, and "final" and "peak" are such scores. `out` also receives
    predictions.npz, see `save_predictions`. The same call continues a killed training, on the CPU to the same numbers,
    and returns a finished one's result at once.
    """
    # what the family cannot do is refused before anything is read
    family, name = victim.split(":", 1) if ":" in victim else ("smp", victim)
    chosen = pick(VICTIMS, family, "family of victims")
    defenses = defenses_of(defense, seed)
    _check_task(family, task)
    init = init if init in INIT else str(located(init))
    if init not in INIT and not (chosen.files and Path(init).exists()):
        end = ", or a file of weights" if chosen.files else f" for a victim of {family}"
        raise UnsegError(f"Expected init to be one of {', '.join(INIT)}{end}, found '{init}'.")
    if any(getattr(one, part) for one in defenses for part in set(TRAINING_PARTS) - set(chosen.defenses)):
        can = "leaves the loss as it is" if "prepare" in chosen.defenses else "only changes images"
        wanted = f"a defence that {can} for a victim of {family}"
        raise UnsegError(f"Expected {wanted}, found '{defense}'; take a victim of smp for the others.")
    # the folder is this training's from here on
    learnt = mixed(train, clean, clean_fraction, seed, clean_only=clean_only)
    size, how = (int(size[0]), int(size[1])), (threads, choose_device(device), precision, defenses, task)
    run = VictimRun(name, learnt, test, Path(out), size, epochs, batch_size, lr, seed, init, clean_fraction, *how)
    check(run)
    claim(run, victim, defense)
    # train what is not done yet
    done = run.out / "result.json"
    if not done.exists():
        keep_freed_memory()
        used = usable_precision(run.precision, run.device)
        write_json(done, chosen(replace(run, train=defended(run.train, defenses))) | {"precision": used})
        run.checkpoint.unlink(missing_ok=True)
    return read_json(done)


def _check_task(family: str, task: str) -> None:
    if task in VICTIMS[family].tasks:
        return
    able = " or ".join(name for name, victim in VICTIMS.items() if task in victim.tasks)
    if not able:
        tasks = {name for victim in VICTIMS.values() for name in victim.tasks if name}
        raise UnsegError(f"Unknown task '{task}' of a victim; {closest(task, sorted(tasks))}")
    can, wanted = ", ".join(filter(None, VICTIMS[family].tasks)), task or "label maps"
    raise UnsegError(f"Expected a victim of {able} for {wanted}, found one of {family}, which can only {can}.")
