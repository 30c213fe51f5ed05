"""Data sets that nobody can download without an account, the reading of terms, or a choice of images."""

from unseg_lib.datasets.source import Source

_HQSEG = "agree to DIS5K's terms of use and download data/ of huggingface.co/sam-hq-team/sam-hq-training"

BY_HAND = {
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
        title="SSDD, ships in radar images",
        place="SSDD",
        licence="research, cite",
        paper="Zhang et al., Remote Sensing 2021; Chen et al. (RSPrompter), TGRS 2024",
        by_hand="put the 1160 images of github.com/TianwenZhang0825/Official-SSDD or of "
        "aistudio.baidu.com/datasetdetail/56503 into SSDD/imgs, and SSDD_instances_{train,val}.json of "
        "github.com/KyanChen/RSPrompter (data/SSDD/annotations) into SSDD/annotations",
        official="train 928, test 232",
    ),
}
