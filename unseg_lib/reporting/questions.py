"""The questions that the paper, its reviewers and its released code raise, each as what is compared with what.

A question has trials: one setting (a data set as the profiles name it), and arms that differ in one thing. The first
arm of a trial is its reference. Runs are found by recipe, whichever profile made them (`arms.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One row: a recipe, and how the victims that saw it were trained.

    recipe: "" where the paper has this row and the kit cannot have it. paper: the published method beside it.
    way: the label of the profile's grid entry ("64px"), which ends the name of the runs.
    """

    label: str
    recipe: str = ""
    paper: str = ""
    way: str = ""
    defense: str = "none"
    clean_fraction: float = 0.0


@dataclass(frozen=True)
class Trial:
    """Arms in one setting; metric "" is the setting's own."""

    setting: str
    arms: tuple[Arm, ...]
    metric: str = ""


def trial(setting: str, *arms: Arm, metric: str = "") -> Trial:
    return Trial(setting, arms, metric)


@dataclass(frozen=True)
class Question:
    """paper: table, data set, victim and metric of the published numbers, and a note what they are; () without any."""

    title: str
    text: str
    trials: tuple[Trial, ...]
    paper: tuple[str, str, str, str] = ()
    note: str = ""


DEEPLABV1 = ("voc", "deeplabv1-wideresnet38", "miou")
SHARED = "universal_component"
JPEG_95 = ("jpeg quality=95", "jpeg quality=95 subsampling=444")

QUESTIONS = {
    "prompt": Question(
        "Prompts",
        "How must the generator be told what to protect, and where may the full budget go then?",
        (
            trial(
                "voc-object",
                Arm("mask", "unseg-prompt-mask", paper="unseg"),
                Arm("box; budget in the true mask", "unseg-prompt-box", paper="unseg prompt=box"),
                Arm("points; budget in the true mask", "unseg-prompt-points", paper="unseg prompt=point"),
                Arm("box; budget in the box", "unseg-region-box"),
                Arm("points; budget in the region they give", "unseg-region-points"),
            ),
        ),
        ("7", *DEEPLABV1),
        "Table 7, DeepLabV1 on VOC 2012; its budget map for boxes and points is not published",
    ),
    "start": Question(
        "First weights",
        "Does the generator need pretrained weights, and does it need training?",
        (
            trial(
                "voc-object",
                Arm("random, all of it trained", "unseg", paper="unseg init=random"),
                Arm("SAM's, frozen", paper="unseg"),
                Arm("random, never trained, scaled up", "untrained"),
                Arm("random noise", "random"),
            ),
            trial(
                "lung",
                Arm("random, all of it trained", "unseg-colour"),
                Arm("random, never trained, amplitude of small", "untrained"),
                Arm("random noise", "random"),
            ),
        ),
        ("11", *DEEPLABV1),
        "Table 11, DeepLabV1 on VOC 2012; whether its random generator was trained is not said",
    ),
    "surrogate": Question(
        "The surrogate",
        "What does a better surrogate buy, and must it start from self-supervised weights?",
        (
            trial(
                "voc-object",
                Arm("small U-Net, random start", "unseg-one-size"),
                Arm("SAM's shape, random start", "unseg-surrogate-sam"),
                Arm("SAM's shape, MAE's weights", paper="unseg"),
                Arm("ResNet-50, random start", "unseg-surrogate-resnet50"),
                Arm("ResNet-50, ImageNet's weights", paper="unseg surrogate=resnet50"),
                Arm("small U-Net at several sizes", "unseg-texture"),
            ),
        ),
        ("10", "cityscapes", "mask2former-resnet50", "pq"),
        "Table 10, panoptic quality of Mask2Former R50 on Cityscapes",
    ),
    "training": Question(
        "Epsilon generalisation and label modification",
        "Used at 8/255: which budget to train at, and which target to give the generator?",
        (
            trial(
                "voc-object",
                Arm("trained at 8, true mask", "unseg-texture", paper="unseg without eg and lm"),
                Arm("trained at 4, true mask", "unseg-train-eps-4"),
                Arm("trained at 2, true mask", "unseg-train-eps-2"),
                Arm("trained at 1, true mask", "unseg-train-eps-1", paper="unseg without lm"),
                Arm("trained at 0.5, true mask", "unseg-train-eps-0.5"),
                Arm("trained at 8, object everywhere", "unseg-target-ones", paper="unseg without eg"),
                Arm("trained at 1, object everywhere", "unseg-train-eps-1-ones", paper="unseg"),
            ),
        ),
        ("6", *DEEPLABV1),
        "Table 6, DeepLabV1 on VOC 2012, whose numbers are not known to us",
    ),
    "background": Question(
        "Budget outside the mask, and what the eye sees",
        "How much noise does the background need, and what does it cost?",
        (
            trial(
                "voc-object",
                Arm("8 inside, 2 outside", "unseg"),
                *(Arm(f"8 inside, {eps} outside", f"unseg-bg-{eps}") for eps in (0, 1, 4, 8)),
            ),
            trial("lung", Arm("8 inside, 2 outside", "unseg-colour"), Arm("4 and 1", "unseg-colour-medical")),
        ),
    ),
    "turns": Question(
        "Turns and momentum",
        "Does it matter who plays how long, and what the waiting player does?",
        (
            trial(
                "voc-object",
                Arm("five steps each", "unseg-texture"),
                Arm("one step each", "unseg-turns-1-1"),
                Arm("one step, three steps", "unseg-turns-1-3"),
                Arm("one epoch, three epochs", "unseg-turns-epochs-1-3"),
                Arm("the waiting player drifts", "unseg-leaking"),
            ),
        ),
    ),
    "luck": Question(
        "The generator's seed, and the mean of its noise",
        "How much of a generator is luck, and what keeps its noise from becoming one colour?",
        (
            trial(
                "voc-object",
                Arm("mean off the noise", "unseg-texture"),
                Arm("mean off the noise, second seed", "unseg-seed-1"),
                Arm("mean off the noise, third seed", "unseg-seed-2"),
                Arm("mean off the logits", "unseg"),
                Arm("mean off the logits, second seed", "unseg-small-seed-1"),
                Arm("mean off the logits, third seed", "unseg-small-seed-2"),
                Arm("mean of the whole map, off the logits", "unseg-colour"),
            ),
        ),
    ),
    "resolution": Question(
        "Noise grid and size of the victim's images",
        "Does noise made for one size work at others?",
        (
            trial(
                "voc-object",
                Arm("victim at 96 pixels", "unseg-texture"),
                Arm("victim at 64 pixels", "unseg-texture", way="64px"),
                Arm("victim at 128 pixels", "unseg-texture", way="128px"),
                Arm("noise of 32 cells, victim at 96 pixels", "unseg-tiny"),
            ),
        ),
    ),
    "classes": Question(
        "Some classes, and a noise for each",
        "Can some classes be protected alone, and does a noise of its own for every class do more than one for all?",
        (
            trial(
                "camvid",
                Arm("some classes, one noise", "unseg-colour-things"),
                Arm("some classes, a noise for each", "unseg-colour-by-class-things"),
                metric="iou_protected",
            ),
            trial(
                "camvid",
                Arm("some classes, one noise", "unseg-colour-things"),
                Arm("some classes, random noise", "random-things"),
                Arm("some classes, a constant colour", "colour-offset-things"),
                Arm("some classes, a grating", "grating-things"),
                metric="iou_protected",
            ),
            trial(
                "camvid",
                Arm("everything, one noise, generator colour", "unseg-colour"),
                Arm("everything, a noise for each class, colour", "unseg-colour-by-class"),
                Arm("everything, one noise, generator small", "unseg"),
                Arm("everything, a noise for each class, small", "unseg-by-class"),
            ),
        ),
    ),
    "format": Question(
        "File format",
        "What is left when the protected files are saved once more?",
        (
            trial(
                "voc-object",
                Arm("PNG", "unseg"),
                Arm("JPEG-95, 4:2:0", "unseg", "unseg", defense=JPEG_95[0]),
                Arm("JPEG-95, 4:4:4", "unseg", defense=JPEG_95[1]),
                Arm("JPEG of unknown quality", "", "unseg+jpeg"),
            ),
            trial(
                "lung",
                Arm("PNG", "unseg-colour"),
                Arm("JPEG-95, 4:2:0", "unseg-colour", defense=JPEG_95[0]),
                Arm("JPEG-95, 4:4:4", "unseg-colour", defense=JPEG_95[1]),
            ),
        ),
        ("4", "voc", "deeplabv3-resnet50", "miou"),
        "Table 4, DeepLabV3 on VOC 2012; the released code writes VOC as JPEG-95 with 4:2:0",
    ),
}

TRIVIAL = {
    "random noise": "random",
    "one fixed tile": "fixed-tile",
    "a constant colour": "colour-offset",
    "a constant gray": "gray-offset",
    "a grating": "grating",
    "never trained, scaled up": "untrained",
}
SIMPLE = {label: TRIVIAL[label] for label in ("one fixed tile", "a constant colour", "a grating")}
THINGS = {
    "UnSeg on some classes": "unseg-colour-things",
    "a constant colour on some classes": "colour-offset-things",
    "a grating on some classes": "grating-things",
}


def _controls(setting: str, own: dict[str, str], metric: str = "") -> Trial:
    """Our recipes, the first as the reference, then noise that nobody had to train."""
    return trial(setting, *(Arm(label, recipe) for label, recipe in (own | TRIVIAL).items()), metric=metric)


def _shared_removed(setting: str, own: dict[str, str], metric: str = "") -> Trial:
    arms = (Arm(f"{label}, shared part subtracted", name, defense=SHARED) for label, name in own.items())
    return trial(setting, *arms, metric=metric)


QUESTIONS["game"] = Question(
    "Does the bilevel game matter?",
    "Is the learned noise stronger than noise that nobody had to train, and does it outlive the subtraction of "
    "whatever all images share?",
    (
        _controls("voc-object", {"UnSeg": "unseg", "UnSeg, generator colour": "unseg-colour"}),
        _shared_removed("voc-object", {"UnSeg": "unseg"} | SIMPLE),
        _controls("lung", {"UnSeg, generator colour": "unseg-colour", "UnSeg": "unseg"}),
        _shared_removed("lung", {"UnSeg, generator colour": "unseg-colour"} | SIMPLE),
        _controls("voc", {"UnSeg": "unseg", "UnSeg, generator texture": "unseg-texture"}, "iou_protected"),
        _shared_removed("voc", {"UnSeg": "unseg", "a grating": "grating"}, "iou_protected"),
        _controls("camvid", {"UnSeg": "unseg", "UnSeg, generator colour": "unseg-colour"}),
        _shared_removed("camvid", THINGS, "iou_protected"),
    ),
)

# (setting, recipe) that no table but their question's needs; elsewhere a recipe of that name is nobody's variant
USUAL = ("unseg-texture", "unseg-colour", "unseg-colour-things")
VARIANTS = {
    (one.setting, arm.recipe)
    for question in QUESTIONS.values()
    for one in question.trials
    for arm in one.arms
    if arm.recipe.startswith("unseg-") and arm.recipe not in USUAL
}
