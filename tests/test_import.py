"""`import unseg_lib` is light, and makes torchvision importable on a CPU-only torch."""

import subprocess
import sys

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


def test_torchvision_works_after_a_light_import(tmp_path):
    done = subprocess.run([sys.executable, "-c", NMS], capture_output=True, text=True, check=True, cwd=tmp_path)
    # by hand: boxes 0 and 1 overlap by 81 of 100, boxes 0 and 3 are equal
    assert done.stdout.splitlines() == ["[1, 2]", "[1, 0, 2]", "[1, 0, 2]", "[]"]
