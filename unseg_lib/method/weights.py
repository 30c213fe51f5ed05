"""Weights in and out: our safetensors, SAM's and MAE's checkpoints, the paper's released generator.

Foreign `.pth` files are never unpickled (`weights_only=True`); where the sha256 is known, they are read if it matched.
"""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from unseg_lib.errors import UnsegError, pick
from unseg_lib.files import sha256_of, whole_file
from unseg_lib.method.generator import Generator
from unseg_lib.method.sam import LAYOUTS, SamLayout
from unseg_lib.runtime import device_called

SHIPPED = Path(__file__).parent / "shipped"
# "vit_b": the authors' own, below the data root; no sha256 is published and no address that stays: fetched by hand
RELEASED = "weights/Generator_unseg_final.pth"


def save_generator(generator: Generator, path: str | Path, about: dict | None = None) -> None:
    """Write a generator with all that is needed to rebuild it; `about` is kept as free metadata (seed, steps, ...)."""
    options = {"layout": asdict(generator.layout)} | generator.options
    # one entry: safetensors keeps several in no fixed order, and equal generators are equal files
    metadata = {"unseg_generator": json.dumps({"options": options, "about": about or {}}, sort_keys=True)}
    with whole_file(path) as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}, partial, metadata)


def shipped() -> dict[str, Path]:
    """{name: file} of the generators inside the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def generator_path(name_or_path: str | Path) -> Path:
    """The file of a generator: the name of a shipped one, "vit_b" for the one that the paper released, or a path."""
    known = shipped()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if str(name_or_path) == "vit_b":
        return released_path()
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    raise UnsegError(
        f"Expected a generator's name ({', '.join(known)}, vit_b) or the path of its .safetensors or .pth "
        f"file, found '{name_or_path}'; train one with notebooks/01_train_generator.ipynb."
    )


def released_path() -> Path:
    """Where the paper's released generator is to lie: ViT-B, 385 MB."""
    from unseg_lib.datasets import data_root

    path = data_root() / RELEASED
    if not path.is_file():
        raise UnsegError(
            f"Expected the paper's released generator at {path}, found no such file; download {path.name} by hand "
            "from the link in the README of github.com/sunye23/UnSeg and put it there."
        )
    return path


def load_generator(name_or_path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Rebuild a generator by name ("small") or path: one of `save_generator`'s, or a `.pth` as the paper released.

    In eval mode.
    """
    device = device_called(device)
    path = generator_path(name_or_path)
    with torch.random.fork_rng():  # construction draws first weights, which are then replaced
        generator = load_released_generator(path) if path.suffix == ".pth" else _read_own(path)
    return generator.to(device).eval()


def _read_own(path: Path) -> Generator:
    try:
        with safe_open(path, framework="pt") as file:
            options = json.loads((file.metadata() or {}).get("unseg_generator", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no dict
    except SafetensorError as error:
        raise UnsegError(
            f"Expected a generator in {path}, found a broken file ({error}); copy or train it again."
        ) from error
    if options is None:
        raise UnsegError(f"Expected a generator written by this library in {path}, found other weights.")
    options = {"mean_of": "logits"} | options["options"]  # files older than the choice know the first way alone
    layout = options.pop("layout")
    layout["global_blocks"] = tuple(layout["global_blocks"])
    generator = Generator(SamLayout(**layout), **options)
    generator.load_state_dict(state)
    return generator


def read_foreign(path: str | Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a foreign `.pth` state dict. With `sha256`, a file of other content is refused unread."""
    if not Path(path).is_file():
        raise UnsegError(f"Expected weights at {path}, found no such file; download them or give another path.")
    if sha256 and (found := sha256_of(path)) != sha256:
        raise UnsegError(f"Expected {path} to have sha256 {sha256}, found {found}; download it again.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise UnsegError(f"Expected a state dict of tensors in {path}, found something else ({error}).") from error
    return state.get("model", state) if isinstance(state, dict) else state


def load_sam(module: nn.Module, path: str | Path, sha256: str | None = None) -> None:
    """Load SAM's official checkpoint into the SAM parts of a generator (or any module with SAM's part names)."""
    state = read_foreign(path, sha256)
    missing, unexpected = module.load_state_dict(_same_shape(module, state, path), strict=False)
    missing = [key for key in missing if not key.startswith("noise_")]
    if missing or unexpected:
        raise UnsegError(
            f"Expected SAM weights of this layout in {path}, found {len(missing)} parameters missing "
            f"(first: {missing[:1]}) and {len(unexpected)} unknown; choose the layout that the file was made for."
        )


def _same_shape(module: nn.Module, state: dict, path) -> dict:
    own = module.state_dict()
    state = {k: v for k, v in state.items() if k not in ("pixel_mean", "pixel_std")}
    for key, value in state.items():
        if key in own and own[key].shape != value.shape:
            raise UnsegError(
                f"Expected {key} of shape {tuple(own[key].shape)} in {path}, found {tuple(value.shape)}; "
                "choose the layout that the file was made for."
            )
    return state


def load_mae(encoder: nn.Module, path: str | Path, sha256: str | None = None) -> None:
    """Start a SAM image encoder from MAE's pretrained ViT (the surrogate's published start).

    MAE's keys are renamed (mlp.fc1/fc2 -> mlp.lin1/lin2), its class token, final norm and decoder are
    dropped, its 14x14 position embedding is resized bicubically to the token grid. Relative positions
    and the neck have no counterpart and keep their initial values. MAE's weights are CC BY-NC 4.0.
    """
    state = read_foreign(path, sha256)
    kept = {}
    for key, value in state.items():
        if key == "pos_embed":
            kept[key] = _resize_positions(value, encoder.pos_embed.shape)
        elif key.startswith(("blocks.", "patch_embed.")):
            kept[key.replace("mlp.fc", "mlp.lin")] = value
    missing, unexpected = encoder.load_state_dict(_same_shape(encoder, kept, path), strict=False)
    missing = [key for key in missing if "rel_pos" not in key and not key.startswith("neck.")]
    if missing or unexpected:
        raise UnsegError(
            f"Expected MAE's ViT weights of this layout in {path}, found {len(missing)} parameters missing "
            f"(first: {missing[:1]}) and {len(unexpected)} unknown (first: {unexpected[:1]})."
        )


def _resize_positions(positions: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """MAE's `(1,1+k*k,C)`, class token first, -> SAM's `(1,t,t,C)`."""
    patches = positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, shape[1:3], mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1)


def load_released_generator(path: str | Path, sha256: str | None = None, layout: str = "vit_b") -> Generator:
    """Load the paper's released `Generator_unseg_final.pth`: SAM's names for SAM's parts, "noise" in every new name.

    The new parts are recognised by their shapes, module by module in the file's order, so their exact
    names do not matter. The result reads the released token slice (see `FIRST_NOISE_TOKEN`).
    """
    state = {key.removeprefix("module."): value for key, value in read_foreign(path, sha256).items()}
    generator = Generator(pick(LAYOUTS, layout, "layout"), tokens="released")
    ours = {k: v for k, v in generator.state_dict().items() if k.startswith("noise_")}
    theirs = {k: v for k, v in state.items() if "noise" in k}
    renamed = dict(_match_modules(_modules(ours), _modules(theirs), path))
    sam = {k: v for k, v in state.items() if k not in theirs}
    sam |= {mine: state[foreign] for mine, foreign in renamed.items()}
    missing, unexpected = generator.load_state_dict(_same_shape(generator, sam, path), strict=False)
    if missing or unexpected:
        raise UnsegError(
            f"Expected the released generator in {path}, found missing {missing[:2]}, unknown {unexpected[:2]}."
        )
    return generator.eval()


def _modules(state: dict[str, torch.Tensor]) -> list[list[tuple[str, torch.Size]]]:
    """Group parameters by the module that holds their layers: `a.0.weight`, `a.1.bias` -> one group."""
    groups = defaultdict(list)
    for key, value in state.items():
        groups[key.rsplit(".", 2)[0] if key.count(".") > 1 else key].append((key, value.shape))
    return list(groups.values())


def _match_modules(ours: list, theirs: list, path):
    """Pair each of our modules with the first unused one of theirs that has the same shapes in the same order."""
    left = list(theirs)
    for group in ours:
        shapes = [shape for _, shape in group]
        twin = next((other for other in left if [shape for _, shape in other] == shapes), None)
        if twin is None:
            raise UnsegError(f"Expected a part shaped like {group[0][0]} {tuple(shapes[0])} in {path}, found none.")
        left.remove(twin)
        yield from zip([key for key, _ in group], [key for key, _ in twin])
