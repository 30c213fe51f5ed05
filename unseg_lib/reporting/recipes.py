"""What the recipes of a profile are, in a few words: tables only name them."""

from collections.abc import Iterable
from pathlib import Path

from unseg_lib.reporting.scores import mode_of

# poison -> words
MEANINGS = {
    "clean": "images as they are",
    "unseg": "UnSeg",
    "unseg_by_class": "UnSeg, a noise for each class",
    "unseg_box": "UnSeg, its budget in the box around the mask",
    "unseg_points": "UnSeg, its budget in the region that three points give",
    "unseg_salient": "UnSeg, its budget in what stands out by its colour",
    "random": "fresh uniform noise",
    "fixed_tile": "one random tile in every image",
    "colour_offset": "a constant colour, stronger inside the mask",
    "gray_offset": "a constant brightness, stronger inside the mask",
    "colour_grating": "two-coloured stripes",
    "untrained": "UnSeg's network before training, its noise scaled up",
    "error_min": "noise fitted to each image",
    "error_min_class": "a tile fitted to each class",
    "random_class": "a random tile for each class",
    "ar": "an autoregressive pattern for each class",
    "synper": "coarse coloured cells for each class",
    "cuda": "a blur for each class, and stretched brightness",
    "cuda_blur": "a blur for each class",
}
ENDINGS = {"-things": "the full budget only on the protected classes", "-gray": "gray images"}


def legend(recipes: Iterable[str], results: str | Path) -> str:
    """A sentence on these recipes of a profile, in their order: "random: fresh uniform noise; grating: ..."."""
    from unseg_lib.pipeline import profile_of

    profile, told = profile_of(results), {}
    for name in recipes:
        base = name.removesuffix(mode_of(name))
        chosen = profile.recipes.get(base, {}) if profile else {}
        words = MEANINGS.get(chosen.get("poison", base.replace("-", "_")))
        if words and base != "clean":
            generator = chosen.get("generator") if words == "UnSeg" else None
            told[base] = words + (f" with the generator {generator}" if generator else "")
    endings = {mode_of(name) for name in recipes}
    told |= {f"…{ending}": words for ending, words in ENDINGS.items() if ending in endings}
    return "; ".join(f"{name}: {words}" for name, words in told.items()) + ("." if told else "")
