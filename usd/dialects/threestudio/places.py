"""What threestudio and Lightning call an option that has another name or place here, for files in our own words."""

import re

from usd.dialects.threestudio.guidance import MEMORY, STUDENT_OPTIONS
from usd.dialects.threestudio.system import TARGETS

PLACES: tuple[tuple[str, str], ...] = (
    (r"trainer\.(max_epochs|min_epochs|min_steps|max_time)", "trainer.max_steps; a training has no epochs"),
    (r"trainer\.check_val_every_n_epoch", "trainer.val_check_interval, in steps"),
    (r"trainer\.(devices|accelerator|strategy|num_nodes)", "--gpu on the command line, as in --gpu 0,1"),
    (r"trainer\.gradient_clip_algorithm", "trainer.gradient_clip_val alone, which limits the norm"),
    (r"trainer\.(limit_test_batches|limit_predict_batches)", "data.n_test_views"),
    (r"trainer\.limit_train_batches", "trainer.max_steps"),
    (r"trainer\.(logger|callbacks|plugins|profiler)", "system.loggers, or nothing"),
    (r"trainer\.deterministic|trainer\.benchmark", "seed; a training repeats itself already"),
    (r"checkpoint\.every_n_epochs", "checkpoint.every_n_train_steps"),
    (r"checkpoint\.(monitor|mode)", "checkpoint.save_top_k alone, which keeps the newest"),
    (r"checkpoint\.(dirpath|filename)", "exp_root_dir, name and tag"),
    *[
        (rf"system\.guidance(_3d)?\.{key}", f"system.guidance.{place}={str(value).lower()}")
        for key, (place, value) in MEMORY.items()
    ],
    *[
        (rf"system\.guidance(_3d)?\.{key}", f"system.guidance.{place}")
        for key, place in STUDENT_OPTIONS.items()
    ],
    (r"system\.guidance\.enable_memory_efficient_attention", "nothing: attention always is"),
    (r"system\.guidance\.token_merging(_params)?", "system.guidance.models.views_at_once or .offload"),
    (
        r"system\.guidance(_3d)?\.(pretrained_config|vram_O|cache_dir|max_items_eval)",
        "nothing: it is not needed",
    ),
    (r"system\.guidance(_3d)?\.cond_image_path", "system.guidance.image_path"),
    (r"system\.guidance(_3d)?\.cond_(elevation_deg|azimuth_deg|camera_distance)", r"data.reference_\2"),
    (r"system\.guidance\.use_sjc", "system.guidance_type: stable-diffusion-sjc-guidance"),
    (r"system\.guidance\.enable_sdi", "system.guidance_type: stable-diffusion-sdi-guidance"),
    (r"system\.guidance\.view_dependent_prompting", "system.prompt_processor.view_dependent_prompting"),
    (r"system\.prompt_processor\.spawn", "nothing: it is not needed"),
    (r"system\.(refinement|texture)", "system.stage: texture"),
    (r"system\.cleanup_after_(validation|test)_step", "nothing: it is not needed"),
    (
        r"system\.geometry\.isosurface(_method|_coarse_to_fine|_outlier_n_faces_threshold)?",
        "nothing: it is not needed",
    ),
    (r"system\.renderer\.return_(comp_normal|normal_perturb)", "nothing: losses say what they need"),
    (r"data\.default_(elevation_deg|azimuth_deg|camera_distance|fovy_deg)", r"data.reference_\1"),
    (r"data\.random_camera(\.\w+)?", "its options in data itself"),
    (r"data\.image_path", "system.guidance.image_path, or system.image_path"),
    (r"data\.requires_(depth|normal)", r"system.reference.requires_\1"),
    (r"(system\.)?exporter\.save_video", "nothing: the test writes a video"),
)
"""Keys, as regular expressions, and what to say here."""


def with_place(message: str) -> str:
    """Return an error with the name and place that an option of threestudio's has here, where it is about one."""
    key, told, _ = message.partition(": unknown key.")
    if told:
        for pattern, place in PLACES:
            if found := re.fullmatch(pattern, key):
                return f"{key}: unknown key; expected {found.expand(place)} (the key is threestudio's or Lightning's)"
    name = re.match(r"system_type: no system is called '([\w-]+)'", message)
    if name is not None and name[1] in TARGETS:
        return (
            f"system_type: {name[1]} is threestudio's; expected {TARGETS[name[1]]}, or dialect=threestudio, by which "
            "all of the configuration is read as threestudio's"
        )
    return message
