"""The bilevel game: generator and surrogate take turns at the same loss (paper, method).

S-phase: the surrogate learns to segment noised images, the generator is fixed.
G-phase: the generator makes the fixed surrogate's task easy, so that the noise, not the image, is
what a model learns from. "Label modification" asks for an all-ones mask in the G-phase.

Everything random is derived from (seed, step) or (seed, epoch, image), so a run that was killed
continues from its last checkpoint with the same numbers: to the bit on a CPU, to rounding on a GPU,
whose sums have no fixed order.
"""

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, whole_file, write_csv, write_json
from unseg_lib.method.budget import budget_map
from unseg_lib.method.claim import claim
from unseg_lib.method.config import LEAKING, BilevelConfig, phase_of
from unseg_lib.method.fast_training import accelerate, ahead
from unseg_lib.method.losses import segmentation_loss
from unseg_lib.method.pairs import batches, steps_per_epoch
from unseg_lib.method.players import Game
from unseg_lib.method.prompts import all_prompts, one_kind, only, subset
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.method.several_devices import interactive, train_beside
from unseg_lib.method.wear import gray_part, random_size, resize, through_a_file, without_shared
from unseg_lib.method.weights import save_generator
from unseg_lib.runtime import Stopwatch, choose_device, keep_freed_memory, progress, usable_precision
from unseg_lib.seeds import torch_rng

GENERATOR, CHECKPOINT = "generator.safetensors", "checkpoint.pt"


def noised(config: BilevelConfig, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, size: int):
    """Put noise on images at the size at which the surrogate sees them.

    x `(N,3,S,S)` in [0,1], y `(N,1,S,S)` soft mask, noise `(N,3,g,g)` in (-1,1).
    Returns the noised images `(N,3,size,size)` and the masks at that size.
    """
    x, y = resize(x, size), resize(y, size)
    budget = budget_map(y > 0.5, config.train_eps, config.train_eps_bg)
    return (x + noise_at(config, noise, size) * budget).clamp(0, 1), y


def noise_at(config: BilevelConfig, noise: torch.Tensor, size: int) -> torch.Tensor:
    """The noise map at the surrogate's size: published, a bilinear enlargement."""
    return through_a_file(noise, size) if config.smallest < 1 else resize(noise, size)


def play(config: BilevelConfig, players: dict, seen_by: dict, batch, phase: str, rng: torch.Generator):
    """One move: the loss of the player whose turn it is, and the noise for the log.

    players: "generator" and "surrogate"; seen_by: the surrogate's input "size" and prompt "grid";
    batch: x `(N,3,S,S)` and y `(N,1,S,S)` in [0,1] at the generator's size.
    """
    x, y = batch
    gray = (torch.rand(len(x), generator=rng) < config.gray).to(x.device)
    x = gray_part(x, gray)

    prompts = all_prompts(y, LAYOUTS[config.layout].grid, rng)
    shown = subset(prompts, rng) if config.shown == "subset" else only(prompts, config.shown)
    with torch.set_grad_enabled(phase == "generator"):
        noise = players["generator"](x, shown)
    worn = gray_part(noise, gray)
    if torch.rand((), generator=rng) < config.shared_removed:
        worn = without_shared(worn)
    size = random_size(seen_by["size"], config.smallest, rng)
    x_noised, y_small = noised(config, x, y, worn, size)

    asked = one_kind(all_prompts(y_small, seen_by["grid"], rng), rng)
    logits = players["surrogate"](x_noised, asked)
    # label modification (paper, method): asks the fixed surrogate for "object everywhere"
    target = torch.ones_like(y_small) if phase == "generator" and config.target == "ones" else y_small
    return segmentation_loss(logits, target, rng, config.loss_points), noise.detach()


def train_step(config: BilevelConfig, fabric, game: Game, batch, phase: str, step: int) -> dict:
    """One step of the player whose turn it is; the other one only passes values and gradients through."""
    idle = "generator" if phase == "surrogate" else "surrogate"
    players = {phase: game.players[phase].train(), idle: game.bare(idle).eval()}
    optimiser = game.optimisers[phase]
    rng = torch_rng(config.seed, "step", step, fabric.global_rank)
    with frozen(players[idle]):
        with fabric.autocast():
            loss, noise = play(config, players, game.seen_by_surrogate, batch, phase, rng)
        optimiser.zero_grad()
        fabric.backward(loss)
        gradients = [p.grad for p in players[phase].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        _check_finite(loss, norm, phase, step, optimiser)
        optimiser.step()
    if config.optimiser in LEAKING:
        game.drift(idle)
    return {"loss": loss.item(), "gradient": norm.item()} | noise_statistics(noise)


@contextmanager
def frozen(module: torch.nn.Module):
    """Let gradients pass through a module without computing those of its parameters."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _check_finite(loss: torch.Tensor, norm: torch.Tensor, phase: str, step: int, optimiser) -> None:
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    raise UnsegError(
        f"Expected a finite loss and gradient, found loss {loss.item():g} and gradient norm {norm.item():g} at step "
        f"{step} ({phase} phase, learning rate {optimiser.param_groups[0]['lr']:g}); "
        "lower the learning rate or use full precision."
    )


def noise_statistics(noise: torch.Tensor) -> dict[str, float]:
    """Signs of a degenerate generator, for noise `(N,3,g,g)`.

    rms: strength, 1 = saturated. spatial_std: 0 = one constant colour. image_std: 0 = the same noise
    for every image (needs N > 1).
    """
    noise = noise.float()
    across = noise.std(dim=0).mean() if len(noise) > 1 else noise.new_zeros(())
    return {
        "rms": noise.square().mean().sqrt().item(),
        "spatial_std": noise.std(dim=(2, 3)).mean().item(),
        "image_std": across.item(),
    }


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

    pairs: a sequence of (image uint8 `(H,W,3)`, mask bool or 0..255 `(H,W)`). `out` receives
    generator.safetensors, log.csv (one row per step), speed.json (images a second and the share of time spent
    waiting for them, of the last call) and, until the end, a checkpoint every
    `checkpoint_every` steps from which the same call continues. device: auto, cpu, cuda, mps; devices: how many, each
    with a process, which Lightning starts from a script, and `train_beside` from a notebook;
    precision: Lightning Fabric's ("32-true", "bf16-mixed"; fp32 where the device has no bf16). fast, and with it
    checkpointed and compiled: see `fast_training.accelerate`; it also reads ahead. Its numbers differ by rounding.
    """
    if (checkpointed or compiled) and not fast:
        raise UnsegError("Expected fast=True beside checkpointed or compiled, found fast=False.")
    out = Path(out)
    finished = out / GENERATOR
    way = {"devices": devices, "precision": usable_precision(precision, choose_device(device))}
    way |= {"fast": fast, "checkpointed": checkpointed, "compiled": compiled}
    claim(out, config, pairs, way)
    if not finished.exists():
        train = train_beside if devices > 1 and interactive() else _train
        train(config, pairs, out, way | {"device": device, "checkpoint_every": checkpoint_every, "workers": workers})
    return finished


def _train(config: BilevelConfig, pairs, out: Path, how: dict) -> None:
    """Play from the last checkpoint to the end, here or in the processes that Fabric starts; how: settings by name."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    strategy = DDPStrategy(find_unused_parameters=True) if how["devices"] > 1 else "auto"
    where = {"accelerator": how["device"], "devices": how["devices"], "strategy": strategy}
    fabric = Fabric(**where, precision=how["precision"])
    fabric.launch()
    keep_freed_memory()
    game = Game(config, fabric)
    if how["fast"]:
        accelerate(game, checkpointed=how["checkpointed"], compiled=how["compiled"])
    start, log = _resume(out, game)

    per_epoch = steps_per_epoch(len(pairs), config, fabric.world_size)
    total = config.steps or config.epochs * per_epoch
    stream, watch = batches(pairs, config, start, total, fabric, how["workers"]), Stopwatch()
    stream = watch.watch(ahead(stream) if how["fast"] else stream, config.batch_size * fabric.world_size)
    moves = enumerate(stream, start)
    if fabric.is_global_zero:
        moves = progress(moves, "generator", total=total, initial=start)
    for step, batch in moves:
        epoch = step // per_epoch
        game.set_learning_rates(0.1 if config.drop_epoch and epoch >= config.drop_epoch else 1.0, config)
        phase = phase_of(config, step, per_epoch)
        log.append({"step": step, "phase": phase} | train_step(config, fabric, game, batch, phase, step))
        if (step + 1) % how["checkpoint_every"] == 0 and step + 1 < total and fabric.is_global_zero:
            _keep(out, game, step + 1, log)
    if fabric.is_global_zero:
        write_csv(out / "log.csv", log)
        write_json(out / "speed.json", watch.report())
        save_generator(game.bare("generator"), out / GENERATOR, {"config": asdict(config), "images": len(pairs)})
        (out / CHECKPOINT).unlink(missing_ok=True)
    fabric.barrier()


def _keep(out: Path, game: Game, step: int, log: list[dict]) -> None:
    """Write a checkpoint from which `step` comes next."""
    write_csv(out / "log.csv", log)  # first the log: a checkpoint never knows more than it
    with whole_file(out / CHECKPOINT) as partial:
        torch.save({"step": step, "game": game.state()}, partial)


def _resume(out: Path, game: Game) -> tuple[int, list[dict]]:
    """Bring the players to the last checkpoint: the step that comes next, and the log up to it."""
    if not (out / CHECKPOINT).exists():
        return 0, []
    saved = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=True)
    game.load_state(saved["game"])
    return saved["step"], read_csv(out / "log.csv")[: saved["step"]]
