"""Which victims there are, and the one function that trains any of them."""

from dataclasses import dataclass, replace
from pathlib import Path

from unseg_lib.datasets import SegmentationSet
from unseg_lib.defenses import Defense, defended, defenses_of
from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.files import read_json, write_json
from unseg_lib.runtime import choose_device, keep_freed_memory, usable_precision
from unseg_lib.victims import deeplabv1, dino, mask2former, mmseg, rsprompter, sam_hq, smp
from unseg_lib.victims.data import mixed
from unseg_lib.victims.run import INIT, LABEL_TASKS, VictimRun, check, claim

# family -> train(run) -> result; "unet-resnet18" is smp's, "mmseg:CONFIG" is mmseg's
VICTIMS = {
    "smp": smp.train,
    "mmseg": mmseg.train,
    "deeplabv1": deeplabv1.train,
    "mask2former": mask2former.train,
    "sam-hq": sam_hq.train,
    "rsprompter": rsprompter.train,
    "dino": dino.train,
}


@dataclass(frozen=True)
class Abilities:
    """What a family of victims can.

    defenses: the parts of a defence that it heeds beside changed images. files: `init` may be a file of weights.
    """

    tasks: tuple[str, ...] = LABEL_TASKS
    defenses: tuple[str, ...] = ("batch", "prepare", "loss")
    files: bool = False


ABILITIES = {
    "smp": Abilities(),
    "mmseg": Abilities(defenses=()),  # mmengine's runner knows nothing of our training loop
    "deeplabv1": Abilities(files=True),
    "mask2former": Abilities((*LABEL_TASKS, "instance", "panoptic"), ("batch", "prepare"), files=True),
    "sam-hq": Abilities(("interactive",), ("batch",), files=True),
    "rsprompter": Abilities(("instance",), ("batch", "prepare"), files=True),
    "dino": Abilities(("detection",), (), files=True),
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

    victim: "unet-resnet18" (any architecture-encoder of segmentation-models-pytorch), "mmseg:CONFIG" (any config
    of mmsegmentation, see mmseg.py), "deeplabv1:wideresnet38", "mask2former:resnet50", "sam-hq:vit_b",
    "rsprompter:vit_b" or "dino:CONFIG" (see their files). size: (height, width) the images are resized to; of mmseg
    and deeplabv1 the training crop, of dino see there. init: first weights of the encoder, "random" or "imagenet"; of
    all but smp and mmseg also a file. defense: of the training, one or several of `unseg_lib.defenses`, e.g.
    "jpeg quality=50+grayscale". clean_fraction: this share of the images of `train` is replaced by those of `clean`,
    and with clean_only the others are left out. task: "instance" and "panoptic" learn from instance masks (mask2former,
    the former also rsprompter), "detection" from their boxes (dino), "interactive" from masks and prompts (sam-hq);
    otherwise label maps are learnt, as the sets were read. threads: 0 leaves torch's number.

    Returns {"classes": [C names], "epochs": [{"epoch": from 1, "loss", "miou", "iou": [C]}], "final" and
    "peak": {"miou", "iou"}, "minutes", "device", "precision" (the one computed in: bf16 only where the device has it)};
    scores in [0,1], None for a class the test labels lack;
    peak is the best epoch of each score by itself. Of tasks other than label maps an epoch has
    {"epoch", "loss", "scores": {metric: in [0,1] or None}}, and "final" and "peak" are such scores. `out` also
    receives predictions.npz (image, truth, prediction of some test images; of those tasks also the segments'
    numbers, or the box that was asked with). The same call continues a killed training, on the CPU to the same
    numbers, and returns a finished one's result at once.
    """
    family, name = victim.split(":", 1) if ":" in victim else ("smp", victim)
    train_family = pick(VICTIMS, family, "family of victims")
    defenses = defenses_of(defense, seed)
    _check_task(family, task)
    _check_init(family, init)
    _check_defenses(family, defenses, defense)
    run = VictimRun(
        name=name,
        train=mixed(train, clean, clean_fraction, seed, clean_only=clean_only),
        test=test,
        out=Path(out),
        size=(int(size[0]), int(size[1])),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        init=init,
        clean_fraction=clean_fraction,
        threads=threads,
        device=choose_device(device),
        precision=precision,
        defenses=defenses,
        task=task,
    )
    check(run)
    claim(run, victim, defense)
    done = run.out / "result.json"
    if not done.exists():
        keep_freed_memory()
        used = usable_precision(run.precision, run.device)
        write_json(done, train_family(replace(run, train=defended(run.train, defenses))) | {"precision": used})
        run.checkpoint.unlink(missing_ok=True)
    return read_json(done)


def _check_task(family: str, task: str) -> None:
    if task in abilities(family).tasks:
        return
    able = [name for name in VICTIMS if task in abilities(name).tasks]
    if not able:
        tasks = {name for family in VICTIMS for name in abilities(family).tasks if name}
        raise UnsegError(f"Unknown task '{task}' of a victim; {closest(task, sorted(tasks))}")
    can, wanted = ", ".join(filter(None, abilities(family).tasks)), task or "label maps"
    raise UnsegError(
        f"Expected a victim of {' or '.join(able)} for {wanted}, found one of {family}, which can only {can}."
    )


def _check_init(family: str, init: str) -> None:
    if init not in INIT and Path(init).exists() and not abilities(family).files:
        raise UnsegError(f"Expected init to be one of {', '.join(INIT)} for a victim of {family}, found '{init}'.")


def _check_defenses(family: str, defenses: tuple[Defense, ...], text: str) -> None:
    can = abilities(family).defenses
    if any(getattr(defense, part) for defense in defenses for part in {"batch", "prepare", "loss"} - set(can)):
        kind = "leaves the loss as it is" if "prepare" in can else "only changes images"
        raise UnsegError(
            f"Expected a defence that {kind} for a victim of {family}, found '{text}'; "
            "take a victim of smp for the others."
        )


def abilities(family: str) -> Abilities:
    return ABILITIES.get(family, Abilities())
