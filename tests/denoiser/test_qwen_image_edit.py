"""Qwen-Image-Edit at tiny size against its own pipeline, and as a model of views with a camera LoRA."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.denoiser.formula_matrix import take_two_steps, take_two_steps_from_a_picture
from usd.core.config import spec
from usd.core.errors import UserError
from usd.core.registry import build
from usd.denoiser import (
    Execution,
    check_shared_latents,
    open_edit_denoiser,
    open_student,
    open_text_denoiser,
    open_view_denoiser,
    tiny_pipelines,
)
from usd.denoiser.components import open_components
from usd.denoiser.flow import pack, unpack
from usd.denoiser.load import denoiser_of
from usd.denoiser.named_views import PROMPTS, NamedViewsDenoiser
from usd.denoiser.qwen_processor import IMAGE, with_patches
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import ddim_step
from usd.math.flow import flow_sample

SIZE, PROMPT, STEPS = 32, "make it red", (0.8, 0.4)
SMALL = Execution(image_size=SIZE)
FRONT = orbit_cameras_deg(0.0, 90.0, 1.5, 40.0, SIZE)


@pytest.fixture(scope="module")
def edit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit")
    pipeline = tiny_pipelines.make("qwen-image-edit", folder)
    pipeline.set_progress_bar_config(disable=True)
    model = open_edit_denoiser(str(folder), "model", SMALL)
    levels = torch.randint(0, 256, (SIZE, SIZE, 3), generator=torch.Generator().manual_seed(2)).byte()
    picture = levels.permute(2, 0, 1)[None] / 255
    return SimpleNamespace(
        pipeline=pipeline, model=model, picture=picture, file=Image.fromarray(levels.numpy())
    )


def noise(model) -> torch.Tensor:
    space = model.latent
    shape = (1, space.channels, space.height, space.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_two_steps_under_prompt_and_picture_are_the_pipelines_own(edit, prompt, monkeypatch):
    """The pipeline shows the picture at 1024 x 1024; here both show it at the size of what is made."""
    module = type(edit.pipeline).__module__
    monkeypatch.setattr(f"{module}.VAE_IMAGE_SIZE", SIZE * SIZE)
    model, z = edit.model, noise(edit.model)
    with torch.no_grad():
        theirs = edit.pipeline(
            edit.file, prompt, height=SIZE, width=SIZE, num_inference_steps=2, sigmas=list(STEPS), latents=pack(z),
            true_cfg_scale=1.0, output_type="latent", return_dict=False,
        )[0]  # fmt: skip
    given = model.with_image(model.embed_text([prompt]), edit.picture)
    index = [round(1000 * level) - 1 for level in STEPS]
    x = z / flow_sample(torch.ones(1, 1, 1, 1), model.levels[index[:1]])
    for t, after in zip(index, [model.alphas_cumprod[index[1]], torch.tensor(1.0)]):
        x = ddim_step(x, model.eps(x, torch.tensor([t]), given), model.alphas_cumprod[t], after)
    theirs = unpack(theirs, model.latent.height, model.latent.width)
    torch.testing.assert_close(x, theirs, atol=5e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_the_picture_counts_as_latents_and_in_what_is_read_and_is_read_once(edit, monkeypatch):
    model = edit.model
    plain = model.embed_text([PROMPT, "a"])
    both = model.with_image(plain, edit.picture.expand(2, -1, -1, -1))
    assert plain.picture is None and both.tokens.shape[1] > plain.tokens.shape[1]
    assert both.prompts() == plain.prompts() == [PROMPT, "a"]
    torch.testing.assert_close(both.picture[:1], model.encode(edit.picture))
    monkeypatch.setattr(model, "_read_prompts", None)  # what was read with a picture is not read again
    again = model.with_image(plain, edit.picture.expand(2, -1, -1, -1))
    assert torch.equal(again.tokens, both.tokens) and both.mask.sum(1)[0] > both.mask.sum(1)[1]
    x, t = noise(model), torch.tensor([500])
    alone = model.with_image(plain.select(torch.tensor([1])), edit.picture)
    torch.testing.assert_close(
        model.eps(x, t, both.select(torch.tensor([1]))), model.eps(x, t, alone), atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(
        model.eps(x, t, alone), model.eps(x, t, plain.select(torch.tensor([1]))), atol=1e-3
    )


def test_without_a_picture_again_is_the_prompt_alone(edit):
    plain = edit.model.embed_text([PROMPT])
    back = edit.model.with_image(edit.model.with_image(plain, edit.picture), None)
    assert back.picture is None
    torch.testing.assert_close(back.tokens, plain.tokens)


def test_a_picture_is_a_token_for_every_four_of_its_patches(edit):
    read = edit.model.prompts.on(torch.device("cpu")).pipeline.processor
    found = read(text=[f"a{IMAGE}b"], images=[edit.file.resize((84, 56))])
    assert found["image_grid_thw"].tolist() == [[1, 4, 6]]  # 14 pixels a side each
    number = read.tokenizer.convert_tokens_to_ids(IMAGE)
    assert int((found["input_ids"] == number).sum()) == 6
    assert with_patches([f"{IMAGE}a{IMAGE}", "b", IMAGE], [2, 1, 3]) == [
        f"{2 * IMAGE}a{IMAGE}",
        "b",
        3 * IMAGE,
    ]


def test_what_cannot_be_read_is_one_line(edit, tmp_path):
    model = edit.model
    assert denoiser_of(open_components(model.folder)) == "qwen-image-edit"
    with pytest.raises(UserError, match="2100 bytes; expected at most 2048"):
        model.embed_text(["x" * 2100])
    plain = model.embed_text([PROMPT])
    with pytest.raises(UserError, match=r"expected system\.prompt_processor\.use_perp_neg: false"):
        plain.lerp(plain, torch.tensor([0.5]))
    for part in model.folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPipeline"}')
    with pytest.raises(UserError, match="the first Qwen-Image-Edit"):
        open_edit_denoiser(str(tmp_path), "model", SMALL)


# ------------------------------------------------------------------------------------------------------- named views


@pytest.fixture(scope="module")
def views(edit, tmp_path_factory):
    """The tiny model with a LoRA of its first attention, as a model of views, and the base's name."""
    layer = "transformer_blocks.0.attn.to_out.0"
    rows, columns = edit.pipeline.transformer.get_submodule(layer).weight.shape
    seeded = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, columns, generator=seeded), torch.randn(rows, 2, generator=seeded)
    file = tmp_path_factory.mktemp("lora") / "angles.safetensors"
    save_file({f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}, file)
    base = str(edit.model.folder)
    return SimpleNamespace(base=base, name=f"{base} + {file} x 0.9", picture=edit.picture)


@pytest.fixture(scope="module")
def guidance(views):
    """The rectified formula, its reference shown."""
    options = {
        "zero123_model_name_or_path": views.name,
        "pretrained_model_name_or_path": views.base,
        "unconditional": "prior",
        "models": {"image_size": SIZE},
    }
    made = build(spec("guidance", "usd-guidance", options))
    made.set_reference(views.picture, FRONT)
    return made


def test_the_unconditional_prediction_is_bit_for_bit_that_of_the_base_without_the_lora(guidance, views):
    model, base = guidance.model, open_text_denoiser(views.base, "base", SMALL)
    assert isinstance(model, NamedViewsDenoiser) and guidance.source.prior is base
    x, t = noise(model), torch.tensor([600])
    scores = guidance.source.at(orbit_cameras_deg(0.0, 180.0, 1.5, 40.0, SIZE), None)
    assert torch.equal(scores.uncond(x, t), base.eps(x, t, base.unconditional(1)))
    own = model.eps(x, t, model.unconditional(1))
    assert not torch.allclose(scores.uncond(x, t), own, atol=1e-3), "the LoRA changes nothing"
    check_shared_latents(model, base, "here")


def test_the_conditional_prediction_is_the_loras_under_the_views_name_and_the_picture(guidance, views):
    changed = open_edit_denoiser(views.name, "model", SMALL)
    camera = orbit_cameras_deg(28.0, 185.0, 1.6, 40.0, SIZE)  # nearly 90 degrees to the right of 90
    said = changed.embed_text(["<sks> right side view elevated shot medium shot"])
    x, t = noise(changed), torch.tensor([300])
    expected = changed.eps(x, t, changed.with_image(said, views.picture))
    torch.testing.assert_close(guidance.source.at(camera, None).cond(x, t), expected, atol=0, rtol=0)


def test_a_student_of_named_views_starts_as_the_edit_model_with_its_lora(guidance, views):
    model = guidance.model
    student = open_student(model, 2)
    embedding = guidance.source._encoded.readings[PROMPTS[0]]
    x, t = noise(model), torch.tensor([400])
    with torch.no_grad():
        torch.testing.assert_close(student(x, t, embedding), model.eps(x, t, embedding), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_every_formula_takes_two_steps_with_prompts_and_with_named_views(edit, views):
    take_two_steps(edit.model, PROMPT)
    take_two_steps_from_a_picture(views.name, views.base, views.picture, FRONT)


def test_views_at_the_pictures_distance_are_read_before_the_encoders_go(guidance):
    model, reference = guidance.model, guidance.source._encoded
    assert set(reference.readings) >= {"", *PROMPTS}
    model.release_encoders()
    model.embed_view(reference, orbit_cameras_deg([-20.0, 55.0], [10.0, 300.0], 1.5, 40.0, SIZE))
    assert not model.edit.prompts.loaded
    own = model.with_cameras(model.unconditional(2), FRONT[[0, 0]], reference)
    assert len(own.tokens) == 2 and own.picture is not None


def test_the_same_model_is_one_object_and_others_stay_what_they_are(views, tiny):
    assert open_view_denoiser(views.name, "a", SMALL) is open_view_denoiser(views.name, "b", SMALL)
    with pytest.raises(UserError, match="not the kind of model wanted here"):
        open_view_denoiser(str(tiny.sd), "a")
