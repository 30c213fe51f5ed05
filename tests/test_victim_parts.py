"""What a victim is given, and what it is at first: images, augmentation, batches, mixtures, names, weights."""

import errno
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from toys import VICTIM, boxes

from unseg_lib import UnsegError
from unseg_lib.files import claim, read_json, write_json
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import data, smp, training

# what a victim is given


def test_images_are_resized_labels_keep_their_classes(sets):
    x, y = data.tensors(sets[0], (16, 24), "toy")
    assert x.shape == (9, 3, 16, 24) and x.dtype == torch.uint8
    assert y.shape == (9, 16, 24) and set(y.unique().tolist()) <= {0, 1, 255}
    whole, _ = data.tensors(sets[0], (32, 48), "toy")
    assert torch.equal(whole[3].permute(1, 2, 0), torch.from_numpy(sets[0].image(sets[0].ids[3]).copy()))


def test_images_that_memory_cannot_hold_lie_in_a_file_without_a_name(sets, tmp_path, monkeypatch):
    held = data.tensors(sets[0], (16, 24), "toy")
    monkeypatch.setattr(data, "MEMORY", 1000)
    lying = data.tensors(sets[0], (16, 24), "toy", tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(held, lying)) and not list(tmp_path.iterdir())
    lying[0][0] = 7
    assert (lying[0][[0]] == 7).all()

    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(data.os, "posix_fallocate", full)
    with pytest.raises(UnsegError, match=r"Expected 5 GB of disk below .*No space left on device.; free it"):
        data.room((5, 10**9), tmp_path)


def test_augmentation_moves_images_and_labels_together():
    y = torch.zeros(64, 32, 32, dtype=torch.uint8)
    y[:, 8:20, 4:16] = 1
    still = y[:, None].float().expand(-1, 3, -1, -1) + 1  # 1 or 2; 0 is what lies outside
    x, moved = data.augment(still, y, torch_rng("augment"))
    again, other = (data.augment(still, y, torch_rng(seed))[0] for seed in ("augment", 1))
    assert torch.equal(x, again) and not torch.equal(x, other)
    assert moved.dtype == torch.long and set(moved.unique().tolist()) == {0, 1, 255}
    # bilinear against nearest: at a corner the nearest pixel has a quarter of the weight
    x = x[:, 0]
    assert (x[moved == 255] < 2 * 0.75).all()
    assert (x[moved == 1] >= 1.25 - 1e-3).all() and (x[moved == 0] <= 1.75 + 1e-3).all()
    area = (moved == 1).float().sum(dim=(1, 2)) / 144
    assert 0.4 < area.min() < 0.8 and 1.1 < area.max() < 1.7  # scales 0.75 to 1.25, squared
    columns = (moved == 1).float().sum(dim=1).argmax(dim=1)
    assert (columns < 16).any() and (columns >= 16).any()  # some are flipped


@pytest.mark.parametrize(("images", "shape"), [(10, (2, 4)), (4, (1, 4)), (3, (1, 3)), (2, (1, 2)), (1, (1, 2))])
def test_batches(images, shape):
    order = data.batches(images, 4, 0, 1)
    assert order.shape == shape and len(order.unique()) == min(images, order.numel())
    assert images < 4 or not torch.equal(order, data.batches(images, 4, 0, 2))


def test_mixture_replaces_a_nested_share_of_the_images(tmp_path):
    clean = boxes(tmp_path / "clean", "train", 8)
    poisoned = boxes(tmp_path / "poisoned", "train", 8, dim=30)

    mixtures = [data.mixed(poisoned, clean, fraction, seed=0) for fraction in (0, 0.25, 0.5, 1)]
    found = [{id for id in clean.ids if np.array_equal(one.image(id), clean.image(id))} for one in mixtures]
    assert [len(ids) for ids in found] == [0, 2, 4, 8] and found[1] < found[2]
    with pytest.raises(UnsegError, match="train7"):
        data.mixed(poisoned, replace(clean, ids=clean.ids[:7]), 0.5, seed=0)
    with pytest.raises(UnsegError, match="clean_fraction"):
        data.mixed(poisoned, clean, 1.5, seed=0)


def test_mixture_reads_images_where_masks_of_the_same_name_lie_beside_them(tmp_path):
    """Parts of HQSeg hold x.jpg and its mask x.png in one folder: the clean image is the .jpg."""
    clean = boxes(tmp_path / "clean", "train", 4)
    beside = {id: clean.image_path(id).with_suffix(".bmp") for id in clean.ids}
    for id, path in beside.items():
        Image.fromarray(clean.image(id)).save(path)
        Image.new("RGB", (16, 16)).save(clean.image_path(id))
    clean = replace(clean, originals={id: path.relative_to(clean.root) for id, path in beside.items()})
    mixture = data.mixed(boxes(tmp_path / "poisoned", "train", 4, dim=30), clean, 1.0, seed=0)
    assert all(np.array_equal(mixture.image(id), clean.image(id)) for id in clean.ids)


# names


@pytest.mark.parametrize("encoder", ["resnet18", "tu-res2net50_26w_4s", "tu-regnetx_032", "efficientnet-b6"])
def test_names(encoder):
    assert smp.parse(f"unetplusplus-{encoder}") == ("unetplusplus", encoder)


def test_imagenet_weights_without_a_network(monkeypatch):
    offline = Mock(side_effect=OSError("no route to host\nand much more"))
    monkeypatch.setattr("segmentation_models_pytorch.create_model", offline)
    with pytest.raises(UnsegError, match=r"use init=random \(no route to host\)\.$"):
        smp.build(VICTIM, 2, (32, 32), "imagenet", 0)


def test_a_model_that_onednn_cannot_do_channels_last():
    """Strided 1x1 convolutions on three channels corrupt the heap there: the process would abort."""
    model, resnet = (smp.build(f"unet-{name}", 2, (32, 32), "random", 0) for name in ("mobileone_s0", "resnet18"))
    assert training.memory_format(model) == torch.contiguous_format
    model.train()(torch.rand(4, 3, 32, 32)).sum().backward()
    assert training.memory_format(resnet) == torch.channels_last


def test_the_random_numbers_of_the_very_gpu_are_put_back(monkeypatch):
    fork, kept = torch.random.fork_rng, []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: (kept.extend(devices), fork(devices=[]))[1])
    for device in ("cpu", "cuda", "cuda:1"):
        with training.own_randomness(device, 0, "dropout"):
            torch.rand(1)
    assert kept == ["cuda", "cuda:1"]


def test_what_an_older_version_began_is_continued_and_what_differs_is_still_refused(tmp_path):
    """Older notes say pictures where all say images now, also inside."""
    mine, note = {"images": 3, "train": {"images": 2, "sha256": "a"}}, tmp_path / "training.json"
    old = {"pictures": 3, "train": {"pictures": 2, "sha256": "a"}}
    write_json(note, old)
    with pytest.raises(UnsegError, match="images 3 there, 4 asked"):
        claim(tmp_path, mine | {"images": 4}, "training")
    assert read_json(note) == old
    claim(tmp_path, mine, "training")
    assert read_json(note) == mine
