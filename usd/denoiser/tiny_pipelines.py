"""Pipelines of diffusers at tiny size with random weights, as the folders that are published.

They stand in for the published models in rehearsals, and the tests compare our denoisers with them.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from usd.core.errors import UserError
from usd.denoiser.qwen_processor import QwenProcessor
from usd.denoiser.weights import quiet

if TYPE_CHECKING:
    import diffusers
    import transformers

CHAT = "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}<|assistant|>"
VISION = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
CLIP_WIDTH, T5_WIDTH, LANGUAGE_WIDTH = 16, 32, 24


def _letters(*special: str) -> dict[str, int]:
    """Return numbers of special tokens and of all bytes, as byte-level tokenizers spell them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    signs = [*map(chr, plain), *(chr(256 + i) for i in range(len(rest)))]
    return {
        sign: number for number, sign in enumerate([*special, *signs, *(sign + "</w>" for sign in signs)])
    }


def _clip(width: int) -> "tuple[transformers.CLIPTextModelWithProjection, transformers.CLIPTokenizer]":
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    vocab = _letters("<|startoftext|>", "<|endoftext|>")
    config = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=width, intermediate_size=16, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config), CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _t5() -> "tuple[transformers.T5EncoderModel, transformers.T5Tokenizer]":
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -1.0),
        *((chr(i), -2.0) for i in range(33, 127)),
    ]
    config = T5Config(vocab_size=512, d_model=T5_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config), T5Tokenizer(vocab=pieces, model_max_length=64)


def _language() -> "tuple[transformers.Qwen3ForCausalLM, transformers.Qwen2Tokenizer]":
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    vocab = _letters("<|endoftext|>")
    config = Qwen3Config(
        vocab_size=len(vocab), hidden_size=LANGUAGE_WIDTH, intermediate_size=16, num_hidden_layers=28,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    tokenizer.chat_template = CHAT
    return Qwen3ForCausalLM(config), tokenizer


def _gemma() -> "tuple[transformers.Gemma2Model, transformers.GemmaTokenizer]":
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    vocab = _letters("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁")
    config = Gemma2Config(
        vocab_size=len(vocab), hidden_size=LANGUAGE_WIDTH, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return Gemma2Model(config), GemmaTokenizer(vocab=vocab, merges=[])


def _vision_language() -> (
    "tuple[transformers.Qwen2_5_VLForConditionalGeneration, transformers.Qwen2Tokenizer]"
):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    vocab = _letters("<|endoftext|>", *VISION)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(vocab), "hidden_size": LANGUAGE_WIDTH, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": LANGUAGE_WIDTH, "intermediate_size": 16,
        },
        **{f"{name}_token_id": vocab[sign] for name, sign in zip(("image", "vision_start", "vision_end"), VISION)},
    )  # fmt: skip
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[], model_max_length=4096, additional_special_tokens=list(VISION)
    )
    return Qwen2_5_VLForConditionalGeneration(config), tokenizer


def _chat_language() -> "tuple[torch.nn.Module, object]":
    """Return ChatGLM and a tokenizer of it; sentencepiece learns the few pieces that it reads."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=512, hidden_size=LANGUAGE_WIDTH, ffn_hidden_size=16, kv_channels=12,
        num_attention_heads=2, seq_length=256, multi_query_attention=True, add_qkv_bias=True, original_rope=True,
    )  # fmt: skip
    folder = tempfile.TemporaryDirectory(prefix="usd-tokenizer-")
    file = Path(folder.name) / "tokenizer.model"
    file.write_bytes(_sentence_pieces())
    tokenizer = ChatGLMTokenizer(str(file))
    tokenizer.folder = folder  # its file is copied when it is saved, and gone when it is
    model = ChatGLMModel(config, empty_init=False)
    for weight in model.parameters():  # its norms start as whatever lies in memory
        torch.nn.init.normal_(weight, std=0.15)
    return model, tokenizer


def _sentence_pieces() -> bytes:
    """Return a model of sentencepiece that spells letters. Raises UserError without the package."""
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError:
        raise UserError(
            "Kolors reads prompts with the package sentencepiece, which is missing; "
            "expected: pip install sentencepiece"
        ) from None
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["".join(map(chr, range(32, 127)))] * 3), model_writer=model, vocab_size=120,
        hard_vocab_limit=False, model_type="char", minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def _coder(channels: int, levels: int = 2, shift: float | None = 0.06) -> "diffusers.AutoencoderKL":
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * levels, layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=shift,
    )  # fmt: skip


def _unet(**options: object) -> "diffusers.UNet2DConditionModel":
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, **options,
    )  # fmt: skip


def stable_diffusion_xl() -> "diffusers.StableDiffusionXLPipeline":
    """Stable Diffusion XL."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel

    projected, words = _clip(CLIP_WIDTH)
    second, _ = _clip(CLIP_WIDTH)
    network = _unet(cross_attention_dim=2 * CLIP_WIDTH, projection_class_embeddings_input_dim=CLIP_WIDTH + 48)
    first = CLIPTextModel(projected.config)
    return StableDiffusionXLPipeline(
        _coder(4, shift=None), first, second, words, words, network, _betas("scaled_linear", 0.00085, 0.012)
    )


def kolors() -> "diffusers.KolorsPipeline":
    """Kolors."""
    from diffusers import KolorsPipeline

    language, words = _chat_language()
    network = _unet(
        cross_attention_dim=32, encoder_hid_dim=LANGUAGE_WIDTH, encoder_hid_dim_type="text_proj",
        projection_class_embeddings_input_dim=LANGUAGE_WIDTH + 48,
    )  # fmt: skip
    return KolorsPipeline(
        _coder(4, shift=None), language, words, network, _betas("scaled_linear", 0.00085, 0.014, 1100)
    )


def pixart() -> "diffusers.PixArtSigmaPipeline":
    """PixArt-Sigma, which predicts a variance, too."""
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    t5, pieces = _t5()
    network = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=16,
        cross_attention_dim=16, caption_channels=T5_WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtSigmaPipeline(pieces, t5, _coder(4, shift=None), network, _betas("linear", 0.0001, 0.02))


def _betas(form: str, first: float, last: float, count: int = 1000) -> "diffusers.DDIMScheduler":
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule=form, beta_start=first, beta_end=last, num_train_timesteps=count, clip_sample=False
    )


def stable_diffusion_3() -> "diffusers.StableDiffusion3Pipeline":
    """Stable Diffusion 3."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    first, words = _clip(CLIP_WIDTH)
    second, _ = _clip(CLIP_WIDTH)
    t5, pieces = _t5()
    network = SD3Transformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16, pooled_projection_dim=2 * CLIP_WIDTH, in_channels=4, out_channels=4,
        pos_embed_max_size=16,
    )  # fmt: skip
    return StableDiffusion3Pipeline(network, _flow(3.0), _coder(4), first, words, second, words, t5, pieces)


def flux_1(distilled: bool = False) -> "diffusers.FluxPipeline":
    """FLUX.1; ``distilled`` as its "dev"."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    projected, words = _clip(CLIP_WIDTH)
    clip = CLIPTextModel(projected.config)
    t5, pieces = _t5()
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=CLIP_WIDTH, axes_dims_rope=(2, 2, 4),
        guidance_embeds=distilled,
    )  # fmt: skip
    return FluxPipeline(_flow(3.0), _coder(4), clip, words, t5, pieces, network)


def flux_2(distilled: bool = False) -> "diffusers.Flux2KleinPipeline":
    """FLUX.2 klein."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    language, words = _language()
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    network = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=3 * LANGUAGE_WIDTH, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )  # fmt: skip
    return Flux2KleinPipeline(_flow(1.0), vae, language, words, network, is_distilled=distilled)


def z_image() -> "diffusers.ZImagePipeline":
    """Z-Image."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    language, words = _language()
    network = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=LANGUAGE_WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[512, 32, 32],
    )  # fmt: skip
    return ZImagePipeline(_flow(3.0), _coder(4), language, words, network)


def sana() -> "diffusers.SanaPipeline":
    """SANA."""
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    language, words = _gemma()
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(4, 8), decoder_block_out_channels=(4, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )  # fmt: skip
    network = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=LANGUAGE_WIDTH, sample_size=8,
    )  # fmt: skip
    return SanaPipeline(words, language, vae, network, _flow(3.0))


def qwen_image() -> "diffusers.QwenImagePipeline":
    """Qwen-Image."""
    from diffusers import QwenImagePipeline

    vae, language, words, network = _qwen_parts()
    return QwenImagePipeline(_flow(1.0), vae, language, words, network)


def qwen_image_edit() -> "diffusers.QwenImageEditPlusPipeline":
    """Qwen-Image-Edit, whose reference stands at noise level 0 as in its 2511."""
    from diffusers import QwenImageEditPlusPipeline
    from transformers import Qwen2VLImageProcessorPil

    vae, language, words, network = _qwen_parts(zero_cond_t=True)
    pipeline = QwenImageEditPlusPipeline(_flow(1.0), vae, language, words, None, network)
    pipeline.processor = QwenProcessor(Qwen2VLImageProcessorPil(), words)
    return pipeline


def _qwen_parts(
    **options: object,
) -> (
    "tuple[diffusers.AutoencoderKLQwenImage, transformers.Qwen2_5_VLForConditionalGeneration, "
    "transformers.Qwen2Tokenizer, diffusers.QwenImageTransformer2DModel]"
):
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    language, words = _vision_language()
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    )  # fmt: skip
    network = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=LANGUAGE_WIDTH, axes_dims_rope=(2, 2, 4), **options,
    )  # fmt: skip
    return vae, language, words, network


def _flow(shift: float) -> "diffusers.FlowMatchEulerDiscreteScheduler":
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift)


FAMILIES: "dict[str, Callable[[], diffusers.DiffusionPipeline]]" = {
    "stable-diffusion-3": stable_diffusion_3,
    "flux-1": flux_1,
    "flux-2": flux_2,
    "z-image": z_image,
    "sana": sana,
    "qwen-image": qwen_image,
    "qwen-image-edit": qwen_image_edit,
    "stable-diffusion-xl": stable_diffusion_xl,
    "kolors": kolors,
    "pixart": pixart,
}


def make(family: str, folder: Path) -> "diffusers.DiffusionPipeline":
    """Return a pipeline with random weights that move its input, stored in the folder."""
    torch.manual_seed(0)
    pipeline = FAMILIES[family]()
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            part.eval()
        if name in ("transformer", "unet"):
            for weight in part.parameters():
                torch.nn.init.normal_(weight, std=0.15 if weight.dim() > 1 else 0.1)
    with quiet():  # a processor of our own is no component that diffusers saves
        pipeline.save_pretrained(folder)
    if isinstance(processor := getattr(pipeline, "processor", None), QwenProcessor):
        processor.pictures.save_pretrained(folder / "processor")
    return pipeline
