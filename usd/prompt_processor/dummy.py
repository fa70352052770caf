"""``dummy-prompt-processor``: no prompt. For guidances that look at a picture and take no words."""

from dataclasses import dataclass

from typing_extensions import override

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor, Prompts


@register("dummy-prompt-processor")
class DummyPromptProcessor(PromptProcessor["DummyPromptProcessor.Config"]):
    """The empty prompt under every model. A guidance that needs a sentence is refused."""

    @dataclass(frozen=True)
    class Config:
        pretrained_model_name_or_path: str = option(
            "", "text model that would read a prompt, as other prompt processors name it", path=True
        )
        prompt: str = option("", "sentence for the object, as other prompt processors name it")

    @override
    def forward(self, cameras: Cameras) -> Prompts:
        """Raise UserError: there are no conditions for cameras."""
        raise UserError(
            "system.prompt_processor_type: 'dummy-prompt-processor' has no prompt for this guidance; "
            "expected stable-diffusion-prompt-processor or deep-floyd-prompt-processor"
        )

    def unused_options(self) -> list[str]:
        """Return the keys of options that are given: none of them is used."""
        given = {
            "prompt": self.config.prompt,
            "pretrained_model_name_or_path": self.config.pretrained_model_name_or_path,
        }
        return [key for key, value in given.items() if value]
