"""The paper's method: generator, surrogate, prompts, loss, budget and the bilevel game between them."""

import lazy_loader

# the face of the package: what others import from it. Lazy, because segment-anything takes longer than torch to load
# and who measures a budget or names a generator needs none of it
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attacks": ["ATTACKS", "attacked", "attacks_of"],
        "bilevel": ["LATER", "BilevelConfig", "Game", "phase_of", "train_generator", "train_step"],
        "budget": ["add_noise", "add_raw_noise", "budget_map", "check_finite", "measure"],
        "devices": ["accelerate"],
        "generator": ["Generator", "noise_statistics", "place_noise", "square", "upscaling"],
        "inference": ["Inference", "Prepared", "Quartered", "joined", "quarters", "square_of_bytes"],
        "pairs": ["ahead", "digest", "keys_of", "large_scale_jitter"],
        "prompts": ["Prompts", "all_prompts", "boxes_of", "one_kind", "only", "points_of", "subset"],
        "region": ["Box", "Region", "find_region"],
        "sam": ["LAYOUTS", "SamLayout", "attend", "decoder_trunk", "encode", "encode_fused", "encode_learning"]
        + ["build_image_encoder", "build_mask_decoder", "build_prompt_encoder"],
        "segmenter": ["SEGMENTER", "SIDE", "Segmenter", "Window", "around", "box_of", "load_segmenter", "maps_of"]
        + ["save_segmenter", "seen", "segmenter_called", "shrunk"],
        "segmenter_training": ["Examples", "SegmenterConfig", "clicks_in", "rough_box", "scenes_of", "train_segmenter"],
        "surrogate": ["SURROGATES", "UNetSurrogate", "build_surrogate", "sample_at", "segmentation_loss"],
        "variants": ["local_mean", "noise_of"],
        "weights": ["LITE0", "SHIFT", "SPREAD", "generator_path", "load_generator", "load_lite0", "load_sam"]
        + ["load_weights", "read_foreign", "renormalise", "resized_positions", "save_generator", "shipped"],
    },
)
