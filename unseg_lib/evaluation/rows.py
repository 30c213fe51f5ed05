"""The rows that every table is made from: one for every (run, metric)."""

from unseg_lib.errors import UnsegError, closest

RUN = ("task", "dataset", "victim", "init", "recipe", "eps", "eps_bg", "defense", "clean_fraction", "seed")
COLUMNS = (
    *("task", "dataset", "setting", "recipe", "victim_key", "label", "victim", "init", "eps", "eps_bg", "defense"),
    *("clean_fraction", "seed", "metric", "final", "peak", "epochs", "minutes", "device", "precision", "commit"),
    "stage",
)


def victim_rows(run: dict, result: dict, protected: tuple[str, ...] = ()) -> list[dict]:
    """The rows of one victim, scores in percent; the other `COLUMNS` are filled in when rows are collected.

    run: exactly the columns of `RUN`. result: as `train_victim` returns it. protected: classes whose mean
    is the metric iou_protected. Metrics: miou, iou_object (task "object"), iou_protected, iou:<class>; where the
    result has "scores", those.
    """
    check_columns(run, RUN, "a run")
    last = {"epochs": len(result["epochs"]), "minutes": round(result["minutes"], 2), "device": result["device"]}
    return [
        run | {"metric": metric, "final": round(curve[-1], 3), "peak": round(max(curve), 3)} | last
        for metric, curve in curves(result, run["task"], protected).items()
    ]


def check_columns(row: dict, known: tuple[str, ...], where: str) -> None:
    """Raise `UnsegError` unless a row has these columns and no others."""
    if unknown := [name for name in row if name not in known]:
        raise UnsegError(f"Unknown column '{unknown[0]}' in {where}; {closest(unknown[0], list(known))}")
    if missing := [name for name in known if name not in row]:
        raise UnsegError(f"Expected every column in {where}, found none called {', '.join(missing)}.")


def curves(result: dict, task: str, protected: tuple[str, ...] = ()) -> dict[str, list[float]]:
    """Every metric's value after every epoch, in percent; one that nothing in the test set counts for has none."""
    history = result["epochs"]
    if "scores" in history[0]:  # average precision, panoptic quality or those of SAM-HQ
        if protected:
            names = ", ".join(history[0]["scores"])
            raise UnsegError(f"Expected no protected classes with the scores {names}, found {protected[0]}.")
        found = {name: [epoch["scores"][name] for epoch in history] for name in history[0]["scores"]}
    else:
        columns = zip(*(epoch["iou"] for epoch in history))
        found = {"miou": [epoch["miou"] for epoch in history]}
        found |= {f"iou:{name}": column for name, column in zip(result["classes"], columns)}
    found = {name: [100 * value for value in values] for name, values in found.items() if None not in values}
    if task == "object":
        found["iou_object"] = _of_class(found, "object")
    if protected:
        columns = zip(*(_of_class(found, name) for name in protected))
        found["iou_protected"] = [sum(column) / len(protected) for column in columns]
    return found


def _of_class(found: dict[str, list[float]], name: str) -> list[float]:
    if f"iou:{name}" not in found:
        known = [metric.removeprefix("iou:") for metric in found if metric.startswith("iou:")]
        raise UnsegError(f"Expected a class that the test labels hold, found '{name}'; {closest(name, known)}")
    return found[f"iou:{name}"]
