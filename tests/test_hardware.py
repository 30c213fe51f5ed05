"""Which device is taken, and when bf16 is; torchvision on a torch for processors alone."""

import resource
import subprocess
import sys

import pytest
import torch
from toys import HOW, VICTIM

from unseg_lib import UnsegError, runtime
from unseg_lib.victims import train_victim


def test_a_device_is_chosen_or_refused():
    assert runtime.choose_device("cpu") == "cpu" and runtime.choose_device("auto") in ("cpu", "cuda", "mps")
    for wrong, sentence in {"tpu": r"Expected a device of this machine .*'tpu'", "cpu:x": "cuda:1"}.items():
        with pytest.raises(UnsegError, match=sentence):
            runtime.choose_device(wrong)


@pytest.mark.parametrize(("named", "found"), [("0,2", ["0", "2"]), ("", []), ("-1", [])])
def test_hidden_gpus_are_not_counted(monkeypatch, named, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(runtime, "gpu_count", lambda: 0)  # as torch says of the last two
    assert runtime.visible_gpus() == found


def test_a_processor_has_bf16_where_it_multiplies_in_it(monkeypatch):
    old, avx, amx = {"avx2": True}, {"avx2": True, "avx512_bf16": True}, {"amx_bf16": True}
    for known, found in ((old, False), (avx, True), (amx, True), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert runtime.has_bf16.__wrapped__("cpu") is found


def test_bf16_becomes_fp32_where_it_would_be_emulated(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "has_bf16", lambda device: False)
    asked = ("bf16", "bf16-mixed", "32", "32-true")
    assert [runtime.usable_precision(one, "cpu") for one in asked] == ["32", "32-true", "32", "32-true"]
    assert capsys.readouterr().err.count("this cpu has no bf16 of its own") == 2
    monkeypatch.setattr(runtime, "has_bf16", lambda device: True)
    assert runtime.usable_precision("bf16", "cpu") == "bf16"


@pytest.mark.parametrize(("total", "last"), [(7, "7/7"), (19, "18/19 19/19"), (35, "32/35 35/35")])
def test_a_log_has_ten_lines_of_a_loop_at_most(monkeypatch, capsys, total, last):
    monkeypatch.setenv("UNSEG_BATCH", "1")
    assert list(runtime.progress(range(total), "loop")) == list(range(total))
    counts = [line.removeprefix("loop: ").partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert len(counts) <= 10 and counts[-len(last.split()) :] == last.split()


FAULTS = """
import resource, torch
from unseg_lib.runtime import keep_freed_memory
print(keep_freed_memory())
for number in range(80):
    torch.ones(2_000_000)
    if number == 39:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_training_does_not_ask_for_its_memory_twice():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, again = done.stdout.split()
    if kept != "True":
        pytest.skip("this C library has no mallopt to tell")
    # without: 40 blocks of 8 MB, each page of which is new
    assert int(again) < 40 * 8_000_000 / resource.getpagesize() / 10


NMS = """
import unseg_lib, sys
assert "torch" not in sys.modules, "import unseg_lib pulls in torch"
import torchvision, torch, segment_anything, segmentation_models_pytorch
boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10.0]])
scores = torch.tensor([0.8, 0.9, 0.7, 0.1])
print(torchvision.ops.nms(boxes, scores, 0.5).tolist())
print(torchvision.ops.nms(boxes, scores, 0.9).tolist())
print(torchvision.ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0, 0]), 0.5).tolist())
print(torchvision.ops.nms(boxes[:0], scores[:0], 0.5).tolist())
"""


def test_import_unseg_lib_is_light_and_makes_torchvision_work(tmp_path):
    done = subprocess.run([sys.executable, "-c", NMS], capture_output=True, text=True, check=True, cwd=tmp_path)
    # by hand: boxes 0 and 1 overlap by 81 of 100, boxes 0 and 3 are equal
    assert done.stdout.splitlines() == ["[1, 2]", "[1, 0, 2]", "[1, 0, 2]", "[]"]


def test_a_victim_says_what_it_computed_in(sets, tmp_path, monkeypatch):
    how, found = HOW | {"epochs": 1}, {"32": train_victim(VICTIM, *sets, tmp_path / "32", **HOW | {"epochs": 1})}
    for there, name in ((False, "emulated"), (True, "bf16")):
        monkeypatch.setattr(runtime, "has_bf16", lambda device, there=there: there)
        found[name] = train_victim(VICTIM, *sets, tmp_path / name, **how, precision="bf16")
    assert [found[name]["precision"] for name in found] == ["32", "32", "bf16"]
    assert found["emulated"]["epochs"] == found["32"]["epochs"] != found["bf16"]["epochs"]  # bit for bit
