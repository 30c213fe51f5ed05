"""How fast the poisons are that need no training: `python -m unseg_lib.poisons.speed`, one core, 512x512 pixels."""

import time
from statistics import median

import numpy as np

from unseg_lib.poisons import FITTED, POISONS, WITH_GENERATOR, PoisonSettings, Sample
from unseg_lib.seeds import numpy_rng

SIDE, REPEATS = 512, 15


def benchmark_image(side: int = SIDE) -> Sample:
    """Noise as pixels; two discs of different classes on a background, an ignored rim."""
    rows, columns = np.mgrid[:side, :side] / side
    label = np.zeros((side, side), np.uint8)
    label[(rows - 0.35) ** 2 + (columns - 0.35) ** 2 < 0.04] = 1
    label[(rows - 0.7) ** 2 + (columns - 0.65) ** 2 < 0.03] = 2
    label[:2] = 255
    pixels = numpy_rng("speed").integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Sample("speed", pixels, np.isin(label, (1, 2)), label, background=0)


def milliseconds(name: str, image: Sample) -> float:
    """The median time for one image, after a first one that is not counted, of this thread alone."""
    poison, times = POISONS[name](PoisonSettings()), []
    for _ in range(REPEATS + 1):
        start = time.thread_time()
        poison(image)
        times.append(1000 * (time.thread_time() - start))
    return median(times[1:])


def main() -> None:
    image = benchmark_image()
    print(f"{'poison':<16}{'ms/image':>12}{'images/s':>12}")
    for name in sorted(set(POISONS) - {"clean", *WITH_GENERATOR, *FITTED}):
        spent = milliseconds(name, image)
        print(f"{name:<16}{spent:>12.1f}{1000 / spent:>12.0f}")


if __name__ == "__main__":
    main()
