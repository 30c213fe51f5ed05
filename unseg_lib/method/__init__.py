"""The paper's method: generator, surrogate, prompts, losses, budget and the bilevel loop between them."""

import lazy_loader

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["attend", "encode_fused"],
        "bilevel": ["noise_statistics", "train_generator", "train_step"],
        "budget": ["add_noise", "add_raw_noise", "budget_map", "check_finite", "measure", "strips"],
        "claim": ["LATER"],
        "config": ["BilevelConfig", "phase_of"],
        "fast_training": ["accelerate", "ahead", "encode_learning"],
        "generator": ["Generator", "local_mean", "noise_of", "place_noise", "square"],
        "inference": ["Inference", "Prepared", "square_of_bytes"],
        "jitter": ["large_scale_jitter"],
        "losses": ["sample_at", "segmentation_loss"],
        "players": ["Game"],
        "prompts": ["Prompts", "all_prompts", "boxes_of", "one_kind", "only", "points_of", "subset"],
        "region": ["Box", "Region", "enlarged", "region_of", "salient_objects", "shrunk"],
        "sam": [
            "LAYOUTS",
            "SamLayout",
            "build_image_encoder",
            "build_mask_decoder",
            "build_prompt_encoder",
            "decoder_trunk",
            "encode",
        ],
        "surrogate": ["SURROGATES", "UNetSurrogate", "build_surrogate"],
        "weights": ["generator_path", "load_generator", "load_sam", "read_foreign", "save_generator", "shipped"],
    },
)
