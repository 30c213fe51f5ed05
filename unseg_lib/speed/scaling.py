"""What measured speeds mean for whole data sets: hours, and costs at a price an hour."""

# images of what is to be protected, and of the published training (44,320 images, 27 epochs)
COLLECTIONS = {"VOC 2012 aug, train": 10_582, "COCO 2017, train": 118_287, "100 million images": 100_000_000}
TRAINING = 44_320 * 27


def hours(images: int, per_second: float, machines: int = 1) -> float:
    return images / per_second / machines / 3600


def table(per_second: dict[str, float], prices: dict[str, float], machines: int = 1) -> list[dict]:
    """Rows {"task", "machine", "hours", "cost"} for protecting each collection.

    per_second: images a second of one machine, by its name; prices: of one machine's hour. A cluster of n machines
    takes n times less long for the same money, since images do not depend on each other.
    """
    rows = []
    for task, images in COLLECTIONS.items():
        for name, speed in per_second.items():
            spent = hours(images, speed)
            rows.append({"task": task, "machine": name, "hours": spent / machines, "cost": spent * prices[name]})
    return rows


def estimate(flop: float, peak: float, share: float) -> float:
    """Images a second of a machine that was not measured: its published peak, times a share of it. A guess."""
    return peak * share / flop
