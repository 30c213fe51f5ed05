"""DeepLabV1 on WideResNet-38, the paper's victim on VOC."""

from unseg_lib.victims.deeplabv1.training import train

__all__ = ["train"]
