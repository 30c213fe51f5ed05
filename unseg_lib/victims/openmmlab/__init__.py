"""Victims that OpenMMLab's packages train: mmsegmentation, and mmdetection where it is installed."""
