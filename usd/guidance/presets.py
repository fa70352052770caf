"""Names that stand for a formula with other values, or with other scores: from sentences instead of pictures.

``usd-guidance`` with an own unconditional prediction is CSD (arXiv 2310.19415), with lambda 1 as well SDS (arXiv
2209.14988); on a text model it is SDS, CSD, and the published text-to-3D guidance.
"""

from usd.core.module import preset
from usd.guidance.cfd import CfdGuidance
from usd.guidance.dds import DdsGuidance
from usd.guidance.image_prompt_scores import ControlOptions, EditOptions
from usd.guidance.ism import IsmGuidance
from usd.guidance.nfsd import NfsdGuidance
from usd.guidance.pfd import PfdGuidance
from usd.guidance.rfds_rev import RfdsRevGuidance
from usd.guidance.scores import with_scores
from usd.guidance.sdi import SdiGuidance
from usd.guidance.sjc import SjcGuidance
from usd.guidance.text_scores import TextOptions, TextPairOptions
from usd.guidance.ucm import UcmGuidance
from usd.guidance.usd import UsdGuidance
from usd.guidance.vsd import VsdGuidance

# --------------------------------------------------------------------------------------------------- from a picture

preset(
    "csd-guidance",
    UsdGuidance,
    "``usd-guidance`` with the unconditional prediction of the same model: what USD is without its second model.",
    unconditional="own",
)
Zero123Guidance = preset(
    "zero123-guidance",
    UsdGuidance,
    "``usd-guidance`` with other defaults: lambda 1, and the unconditional prediction of the same model. Plain SDS.",
    lambda_=1.0,
    unconditional="own",
)
preset(
    "stable-zero123-guidance",
    Zero123Guidance,
    "``zero123-guidance`` with Stable Zero123, which is given the picture's own elevation.",
    zero123_model_name_or_path="stable-zero123",
)
preset(
    "zero123-unified-guidance",
    VsdGuidance,
    "``vsd-guidance`` that starts as SDS: ``guidance_type`` chooses.",
    guidance_type="sds",
    guidance_scale=5.0,
    lora_n_timestamp_samples=1,
    lora_target="prediction",
)

# -------------------------------------------------------------------------------------------------- from a sentence

FromText = with_scores(TextOptions, UsdGuidance)
StableDiffusionGuidance = preset(
    "stable-diffusion-guidance",
    FromText,
    "A text model's condition against its own unconditional prediction (or a negative prompt's): SDS.",
    guidance_scale=100.0,
    lambda_=1.0,
)
preset(
    "usd-text-to-3D_guidance",
    StableDiffusionGuidance,
    "``stable-diffusion-guidance`` with other defaults: scale 7.5, lambda 0. Text to 3D as published.",
    guidance_scale=7.5,
    lambda_=0.0,
)
preset(
    "deep-floyd-guidance",
    StableDiffusionGuidance,
    "``stable-diffusion-guidance`` on DeepFloyd IF, whose latents are pixels.",
    pretrained_model_name_or_path="deep-floyd-if",
    guidance_scale=20.0,
)
preset("stable-diffusion-csd-guidance", FromText, "CSD from a sentence.")
preset("stable-diffusion-nfsd-guidance", with_scores(TextOptions, NfsdGuidance), "NFSD from a sentence.")
preset("stable-diffusion-ism-guidance", with_scores(TextOptions, IsmGuidance), "ISM from a sentence.")
preset(
    "stable-diffusion-dds-guidance",
    with_scores(TextPairOptions, DdsGuidance),
    "DDS from a pair of sentences: ``source_prompt`` describes the reference picture, the prompt what to make of it.",
)
preset(
    "stable-diffusion-sdi-guidance",
    with_scores(TextOptions, SdiGuidance),
    "SDI from a sentence, as published.",
    inversion_steps=10,
    inversion_spacing="schedule",
    inversion_eta=0.3,
)
preset(
    "stable-diffusion-sjc-guidance",
    with_scores(TextOptions, SjcGuidance),
    "SJC from a sentence.",
    weighting_strategy="uniform",
    guidance_scale=100.0,
)
preset(
    "stable-diffusion-rfds-guidance",
    StableDiffusionGuidance,
    "RFDS from a sentence: SDS with the weight of a rectified flow's own loss.",
    pretrained_model_name_or_path="sd-3.5-medium",
    weighting_strategy="flow",
    guidance_scale=50.0,
)
preset(
    "stable-diffusion-rfds-rev-guidance",
    with_scores(TextOptions, RfdsRevGuidance),
    "RFDS-Rev from a sentence.",
    pretrained_model_name_or_path="sd-3.5-medium",
    weighting_strategy="flow",
    guidance_scale=50.0,
)
preset(
    "stable-diffusion-ucm-guidance",
    with_scores(TextOptions, UcmGuidance),
    "UCM from a sentence.",
    pretrained_model_name_or_path="sd-3.5-medium",
    weighting_strategy="flow",
    guidance_scale=50.0,
)
preset(
    "stable-diffusion-pfd-guidance",
    with_scores(TextOptions, PfdGuidance),
    "PFD from a sentence.",
    weighting_strategy="uniform",
)
preset("stable-diffusion-cfd-guidance", with_scores(TextOptions, CfdGuidance), "CFD from a sentence.")
StableDiffusionVsdGuidance = preset(
    "stable-diffusion-vsd-guidance",
    with_scores(TextOptions, VsdGuidance),
    "VSD from a sentence, as published: its LoRA is given each view's camera and learns at any noise level.",
    lora_lr=1e-4,
    lora_n_timestamp_samples=1,
    lora_target="prediction",
    camera_condition_type="extrinsics",
)
preset(
    "stable-diffusion-unified-guidance",
    StableDiffusionVsdGuidance,
    "``stable-diffusion-vsd-guidance`` that starts as SDS: ``guidance_type`` chooses.",
    guidance_type="sds",
    guidance_scale=100.0,
)

# -------------------------------------------------------------------- from a sentence and a picture of each view

preset(
    "stable-diffusion-instructpix2pix-guidance",
    with_scores(EditOptions, UsdGuidance),
    "SDS by InstructPix2Pix: the render becomes what the prompt makes of a picture of the view. Edits views, too.",
    lambda_=1.0,
)
preset(
    "stable-diffusion-controlnet-guidance",
    with_scores(ControlOptions, UsdGuidance),
    "SDS by Stable Diffusion with a ControlNet, which follows edges or normals of the view. Edits views, too.",
    lambda_=1.0,
)
