"""The paper's game: generator G and surrogate S take turns at (almost) the same loss (§ 1, 4; Eq. 2).

S-phase: minimise L_seg(S(x + δ, p'), y) over S; the surrogate learns to segment noised images, G is fixed.
G-phase: minimise L_seg(S(x + δ, p'), 1) over G; the noise, not the image, becomes what a model learns from, S is fixed.

δ = G(x, p) * budget (Eq. 1). The all-ones target of the G-phase is "label modification"; a budget smaller than the one
that is used later is "epsilon generalisation". What is not published is in variants.py and enters at one hook.
§: sections of docs/method.md, the facts of the paper and of its released code.

Everything random is derived from (seed, step) or (seed, epoch, image): a killed run continues from its last checkpoint
with the same numbers, to the bit on a CPU, to rounding on a GPU, whose sums have no fixed order.
"""

import sys
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from unseg_lib.errors import UnsegError, pick
from unseg_lib.files import claim, read_csv, sha256_if_readable, whole_file, write_csv, write_json
from unseg_lib.method import devices as several
from unseg_lib.method import variants
from unseg_lib.method.budget import budget_map
from unseg_lib.method.generator import FIRST_NOISE_TOKEN, OPTIONS, Generator, noise_statistics
from unseg_lib.method.pairs import ahead, batches, digest, resize, steps_per_epoch
from unseg_lib.method.prompts import all_prompts, one_kind, subset
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.method.surrogate import POINTS, build_surrogate, makers_of, segmentation_loss
from unseg_lib.method.validation import Validation
from unseg_lib.method.weights import load_sam, save_generator
from unseg_lib.pretrained import located
from unseg_lib.runtime import Stopwatch, choose_device, keep_freed_memory, progress, usable_precision
from unseg_lib.seeds import seed_for, torch_rng

GENERATOR, CHECKPOINT = "generator.safetensors", "checkpoint.pt"
# not in the notes of older versions
LATER = ("data", "devices", "precision", "fast", "checkpointed", "compiled", "tokens", "attacks", "shifted", "renew")

# leaking: the player who waits keeps moving on its momentum, as in the released code (§ 4.6)
OPTIMISERS = {"adam": Adam, "adam_leaking": Adam, "adamw": AdamW, "adamw_leaking": AdamW}
CHOICES = variants.CHOICES | {"target": ("ones", "true"), "alternation": ("epoch", "steps")}
CHOICES |= {"tokens": tuple(FIRST_NOISE_TOKEN)}


@dataclass(frozen=True)
class BilevelConfig(variants.Variants):
    """Settings of one training; the defaults are those of the paper and its released code, per GPU."""

    # the players (§ 2, 3)
    layout: str = "vit_b"
    sam_weights: str = ""  # SAM checkpoint for the generator ("" = random, then all of it is trained)
    tokens: str = "corrected"  # read out: its own three, or the "released" code's slice of them (§ 2.2)
    surrogate: str = "sam"
    surrogate_size: int = 0  # side of its input in pixels; 0 = half the generator's
    mae_weights: str = ""  # of the surrogate: MAE's or SAM's for sam, ImageNet's for resnet50 ("" = random)
    # the schedule (§ 4.5)
    epochs: int = 27
    steps: int = 0  # > 0: stop after that many steps, whatever the epochs
    batch_size: int = 4
    alternation: str = "epoch"  # whole epochs, or "steps"
    surrogate_turn: int = 1  # epochs or steps of the surrogate, then ...
    generator_turn: int = 3  # ... of the generator
    optimiser: str = "adam"
    generator_lr: float = 1e-4
    surrogate_lr: float = 1e-4
    drop_epoch: int = 20  # learning rates times 0.1 from here on; 0 = never
    # what is asked (§ 2.3, 4.2, 4.4)
    train_eps: float = 1.0  # over 255; "epsilon generalisation" uses 8 later
    train_eps_bg: float = 0.25
    target: str = "ones"  # label modification; "true" = the true mask in both phases
    scales: tuple[float, float] = (0.1, 2.0)  # large-scale jitter
    loss_points: int = POINTS
    seed: int = 42
    # the surrogate is tested on these sets after every epoch, see `Validation`; it changes nothing
    validation: str = ""

    def __post_init__(self):
        pick(LAYOUTS, self.layout, "layout")
        pick(OPTIMISERS, self.optimiser, "optimiser")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnsegError(f"Expected {name} to be one of {', '.join(known)}, found '{getattr(self, name)}'.")
        if not 0 < self.train_eps_bg <= self.train_eps:
            raise UnsegError(f"Expected 0 < train_eps_bg <= train_eps, found {self.train_eps_bg} and {self.train_eps}.")
        if self.surrogate_turn < 1 or self.generator_turn < 1 or self.batch_size < 1:
            raise UnsegError("Expected surrogate_turn, generator_turn and batch_size of at least 1.")
        if self.smallest < 1 and self.surrogate == "sam":
            raise UnsegError("Expected smallest = 1 with the surrogate 'sam', which has one size; use 'unet'.")
        if self.mae_weights and [hasattr(make, "start") for make in makers_of(self.surrogate)] != [True]:
            raise UnsegError(f"Expected no mae_weights for the surrogate '{self.surrogate}', found {self.mae_weights}.")
        super().__post_init__()


def phase_of(config: BilevelConfig, step: int, steps_per_epoch: int) -> str:
    """Whose turn it is at a step: "surrogate" or "generator". Published: epochs 0, 4, 8 ... are the surrogate's."""
    unit = step // steps_per_epoch if config.alternation == "epoch" else step
    turn = config.surrogate_turn + config.generator_turn
    return "surrogate" if unit % turn < config.surrogate_turn else "generator"


def settings(config: BilevelConfig) -> dict:
    """All that the weights depend on."""
    return {name: value for name, value in asdict(config).items() if name != "validation"}


class Game:
    """Both players with their optimisers, on their devices: what a checkpoint holds."""

    def __init__(self, config: BilevelConfig, fabric):
        layout = LAYOUTS[config.layout]
        with torch.random.fork_rng():  # construction draws from the global generator
            torch.manual_seed(seed_for(config.seed, "weights"))
            generator = Generator(layout, **{name: getattr(config, name) for name in OPTIONS})
            surrogate = build_surrogate(config.surrogate, layout, config.surrogate_size)
        # published: G is a frozen SAM with a new head, S starts from MAE's encoder and learns as a whole (§ 2.1, 3)
        if config.sam_weights:
            load_sam(generator, config.sam_weights)
            generator.train_only_noise_head()
        if config.mae_weights:
            surrogate.start(config.mae_weights)
        generator.freeze_unused()
        # official code: one Adam, which keeps moving the idle player; here two, see `drift`
        self.rates = {"generator": config.generator_lr, "surrogate": config.surrogate_lr}
        self.first = deepcopy(surrogate.state_dict()) if config.renew else None
        self.players, self.optimisers = {"generator": generator, "surrogate": surrogate}, {}
        for name, player in self.players.items():
            learning = [parameter for parameter in player.parameters() if parameter.requires_grad]
            optimiser = OPTIMISERS[config.optimiser](learning, lr=self.rates[name])
            self.players[name], self.optimisers[name] = fabric.setup(player, optimiser)

    def bare(self, name: str) -> torch.nn.Module:
        """A player without Fabric's and DDP's wrappers."""
        return self.players[name].module

    def drift(self, name: str) -> None:
        """Step a waiting player on gradients of zero: what moves it is the momentum of its last turn (§ 4.6)."""
        optimiser = self.optimisers[name]
        for parameter in optimiser.state:  # before its first turn it has no momentum, and stays
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad()

    def renew(self) -> None:
        """The surrogate starts again from its first weights (not published)."""
        self.bare("surrogate").load_state_dict(self.first)
        self.optimisers["surrogate"].state.clear()

    def scale_learning_rates(self, factor: float) -> None:
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name] * factor

    def state(self) -> dict:
        held = {"players": {name: self.bare(name) for name in self.players}, "optimisers": self.optimisers}
        return {kind: {name: part.state_dict() for name, part in parts.items()} for kind, parts in held.items()}

    def load_state(self, state: dict) -> None:
        for name in self.players:
            self.bare(name).load_state_dict(state["players"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])


def noised(config: BilevelConfig, x: Tensor, y: Tensor, noise: Tensor, size: int) -> tuple:
    """x + δ `(N,3,size,size)`, as the surrogate sees it (§ 2.3), and the masks at that size.

    x `(N,3,S,S)` in [0,1], y `(N,1,S,S)` soft mask, noise `(N,3,g,g)` in (-1,1).
    """
    x, y = resize(x, size), resize(y, size)
    budget = budget_map(y > 0.5, config.train_eps, config.train_eps_bg)
    return (x + resize(noise, size) * budget).clamp(0, 1), y


def play(config: BilevelConfig, players: dict, batch, phase: str, rng: torch.Generator) -> tuple:
    """One move: the loss of the player whose turn it is (§ 4.4), and the noise for the log.

    players: "generator" and "surrogate"; batch: x `(N,3,S,S)` and y `(N,1,S,S)` in [0,1] at the generator's size.
    """
    (x, y), surrogate = batch, players["surrogate"]
    # the one hook of what is not published: with the paper's settings it gives back what it is given
    x, show, put = variants.hook(config, x, subset, noised, rng)

    # δ = G(x, p): noise for the image, from a random subset of its prompts (§ 4.3); fixed in the S-phase
    prompts = show(all_prompts(y, LAYOUTS[config.layout].grid, rng), rng)
    with torch.set_grad_enabled(phase == "generator"):
        noise = players["generator"](x, prompts)

    # S(x + δ, p'): the surrogate's answer to one kind of prompt, at half the size (§ 3, 4.3)
    x, y = put(config, x, y, noise, surrogate.size)
    logits = surrogate(x, one_kind(all_prompts(y, surrogate.grid, rng), rng))

    # S-phase: the true mask; G-phase: "object everywhere", label modification (§ 4.4)
    target = torch.ones_like(y) if phase == "generator" and config.target == "ones" else y
    return segmentation_loss(logits, target, rng, config.loss_points), noise.detach()


def train_step(config: BilevelConfig, fabric, game: Game, batch, phase: str, step: int) -> dict:
    """One step of the player whose turn it is; the other one only passes values and gradients through."""
    idle = "generator" if phase == "surrogate" else "surrogate"
    players = {phase: game.players[phase].train(), idle: game.bare(idle).eval()}
    optimiser, rng = game.optimisers[phase], torch_rng(config.seed, "step", step, fabric.global_rank)
    # S-phase: gradients of S alone; G-phase: gradients of G, through a fixed S
    with frozen(players[idle]):
        with fabric.autocast():
            loss, noise = play(config, players, batch, phase, rng)
        optimiser.zero_grad()
        fabric.backward(loss)
    # a step on a loss that is not finite would spoil the weights for good
    norm = torch.nn.utils.get_total_norm([p.grad for p in players[phase].parameters() if p.grad is not None])
    if not (loss.isfinite() and norm.isfinite()):
        raise UnsegError(
            f"Expected a finite loss and gradient, found loss {loss:g} and gradient norm {norm:g} at step {step} "
            f"({phase} phase, learning rate {optimiser.param_groups[0]['lr']:g}); lower it or use full precision."
        )
    # move the player whose turn it is; official code: the other one drifts on
    optimiser.step()
    if config.optimiser.endswith("_leaking"):
        game.drift(idle)
    return {"loss": loss.item(), "gradient": norm.item()} | noise_statistics(noise)


@contextmanager
def frozen(module: torch.nn.Module):
    """Let gradients pass through a module without computing those of its parameters."""
    thawed = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


def train_generator(
    config: BilevelConfig,
    pairs,
    out: str | Path,
    *,
    device: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    checkpoint_every: int = 50,
    workers: int = 0,
    fast: bool = False,
    checkpointed: bool = False,
    compiled: bool = False,
) -> Path:
    """Train a generator on image-mask pairs and return the path of its weights in `out`.

    pairs: a sequence of (image uint8 `(H,W,3)`, mask bool or 0..255 `(H,W)`). `out` receives generator.safetensors,
    log.csv (a row per step), validation.csv (see `Validation`), speed.json (images a second, share of time spent
    waiting for them, of the last call) and, until the end, a checkpoint every `checkpoint_every` steps from which the
    same call continues.
    device: auto, cpu, cuda, mps; devices: how many, each with a process of Lightning's, or of devices.py in a notebook;
    precision: Fabric's ("32-true", "bf16-mixed"; fp32 where the device has no bf16). fast, and with it checkpointed and
    compiled: see `accelerate`; it also reads ahead.
    """
    if (checkpointed or compiled) and not fast:
        raise UnsegError("Expected fast=True beside checkpointed or compiled, found fast=False.")
    out, precision = Path(out), usable_precision(precision, choose_device(device))
    way = dict(devices=devices, precision=precision, fast=fast, checkpointed=checkpointed, compiled=compiled)
    # the folder belongs to this training: to its settings, its data, and what else changes the numbers
    # of its data the first and the last pair: all would mean to decode a large set once more
    ends = [part for i in range(0, len(pairs), max(1, len(pairs) - 1)) for part in pairs[i]]
    mine = settings(config) | {"scales": list(config.scales), "images": len(pairs), "data": digest(*ends)} | way
    for name in ("sam_weights", "mae_weights"):
        mine[name] = mine[name] and (sha256_if_readable(located(mine[name])) or mine[name])
    claim(out, mine, "training", later=LATER)
    if not (out / GENERATOR).exists():
        how = way | dict(device=device, checkpoint_every=checkpoint_every, workers=workers)
        # a notebook or a prompt has no script that Lightning could start again for each device
        in_notebook = devices > 1 and (hasattr(sys, "ps1") or sys.flags.interactive)
        train = partial(several.train_beside, _train) if in_notebook else _train
        train(config, pairs, out, how)
    return out / GENERATOR


def _train(config: BilevelConfig, pairs, out: Path, how: dict) -> None:
    """Play from the last checkpoint to the end, here or in the processes that Fabric starts; how: settings by name."""
    from lightning.fabric import Fabric

    # set up the devices and the players
    strategy = "ddp_find_unused_parameters_true" if how["devices"] > 1 else "auto"
    fabric = Fabric(accelerator=how["device"], devices=how["devices"], strategy=strategy, precision=how["precision"])
    fabric.launch()
    keep_freed_memory()
    game = Game(config, fabric)
    if how["fast"]:
        several.accelerate(game, checkpointed=how["checkpointed"], compiled=how["compiled"])

    # go on where a killed run stopped
    start, log = 0, []
    if (out / CHECKPOINT).exists():
        saved = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=True)
        game.load_state(saved["game"])
        start, log = saved["step"], read_csv(out / "log.csv")[: saved["step"]]

    # the images from there on
    per_epoch = steps_per_epoch(len(pairs), config, fabric.world_size)
    total = config.steps or config.epochs * per_epoch
    stream, watch = batches(pairs, config, start, total, fabric, how["workers"]), Stopwatch()
    stream = watch.watch(ahead(stream) if how["fast"] else stream, config.batch_size * fabric.world_size)
    moves, validation = enumerate(stream, start), Validation(config, noised, out, start)
    if fabric.is_global_zero:
        moves = progress(moves, "generator", total=total, initial=start)

    # play
    for step, batch in moves:
        dropped = config.drop_epoch and step // per_epoch >= config.drop_epoch
        game.scale_learning_rates(0.1 if dropped else 1.0)
        phase = phase_of(config, step, per_epoch)
        if config.renew and step % config.renew == 0:
            game.renew()
        log.append({"step": step, "phase": phase} | train_step(config, fabric, game, batch, phase, step))
        validation.after(step, per_epoch, total, game, fabric)
        if (step + 1) % how["checkpoint_every"] == 0 and step + 1 < total and fabric.is_global_zero:
            write_csv(out / "log.csv", log)  # first the log: a checkpoint never knows more than it
            with whole_file(out / CHECKPOINT) as partial:
                torch.save({"step": step + 1, "game": game.state()}, partial)

    # keep the generator; the surrogate is discarded (§ 3)
    if fabric.is_global_zero:
        write_csv(out / "log.csv", log)
        write_json(out / "speed.json", watch.report())
        own = {name: value for name, value in settings(config).items() if name != "tokens"}  # the generator's own
        save_generator(game.bare("generator"), out / GENERATOR, {"config": own, "images": len(pairs)})
        (out / CHECKPOINT).unlink(missing_ok=True)
    fabric.barrier()
