"""The page's controls. Each only leaves a wish: on the stage (what is shown), or as a request of the session."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import viser
from viser import Icon, uplot

from usd.core.config import Plain
from usd.core.errors import UserError
from usd.data.camera_path import CameraPath, KeyView, parse_camera_path
from usd.system.live_options import LiveOption
from usd.viewer.history import History
from usd.viewer.pictures import PictureKind
from usd.viewer.session import RequestKind, Session
from usd.viewer.stage import CropBox, Stage

Clicked = viser.GuiEvent[viser.GuiButtonHandle]
LINES = ("#5aaaff", "#ff783c", "#96dc78", "#e0c050", "#c878e0", "#60d0d0", "#e06060", "#a0a0a0")
SETTLED = 0.8
"""Seconds without another key press after which a typed number counts."""
MESH = "mesh, as exported"


@dataclass
class PathEditor:
    """The key views that have been collected on the page, and how they become a video."""

    keys: list[KeyView] = field(default_factory=list)
    seconds: float = 6.0
    loop: bool = True
    size: int = 512

    @property
    def path(self) -> CameraPath:
        """The camera path as it is now."""
        return CameraPath(tuple(self.keys), self.seconds, loop=self.loop)

    def request(self) -> dict[str, Plain]:
        """Return what a request for a video carries."""
        keys: list[Plain] = [
            {"position": list(key.position), "look_at": list(key.look_at), "fov_y_deg": key.fov_y_deg}
            for key in self.keys
        ]
        path: dict[str, Plain] = {"seconds": self.seconds, "loop": self.loop, "keyframes": keys}
        return {"path": path, "size": self.size}


class Panel:
    """The controls beside a stage. ``training`` says whether there is something to pause, or only a finished object."""

    def __init__(self, stage: Stage, session: Session, title: str, training: bool) -> None:
        self.stage, self.session, self.training = stage, session, training
        self.gui = stage.server.gui
        self.editor = PathEditor()
        self.crop: CropBox | None = None
        self.options: dict[str, LiveOption] = {}
        self.paused = False
        self._cameras: dict[str, viser.GuiInputHandle[bool]] = {}
        self._typed: dict[str, tuple[Plain, float]] = {}
        self._curves: viser.GuiUplotHandle | None = None
        self._choice: viser.GuiDropdownHandle[str] | None = None
        self._curve_names: list[str] = []
        self._chosen = "loss"
        self.gui.configure_theme(
            dark_mode=True, control_width="large", show_logo=False, show_share_button=False
        )
        self.gui.set_panel_label(title)
        self.status = self.gui.add_markdown("…")
        if training:
            self._add_run_controls()
        self._add_tabs()

    def _add_tabs(self) -> None:
        tabs = self.gui.add_tab_group()
        with tabs.add_tab("View"):
            self._add_view()
        if self.training:
            self.curves_tab = tabs.add_tab("Curves")
            self.options_tab = tabs.add_tab("Options")
            with tabs.add_tab("Guidance"):
                self._add_insight()
        with tabs.add_tab("Video"):
            self._add_video()
        with tabs.add_tab("Export"):
            self._add_export()

    # ------------------------------------------------------------------------------------------------ the run

    def _add_run_controls(self) -> None:
        self.pause = self.gui.add_button("Pause", icon=Icon.PLAYER_PAUSE, hint="between two steps")
        self.pause.on_click(lambda _: self.session.ask("resume" if self.paused else "pause"))
        with self.gui.add_folder("Run", expand_by_default=False):
            self._button("Save a checkpoint now", "save", Icon.DEVICE_FLOPPY)
            self._button("End the training here", "stop", Icon.PLAYER_STOP)
            self.close = self._button("Close the viewer", "close", Icon.X)

    def _button(self, label: str, kind: RequestKind, icon: viser.IconName) -> viser.GuiButtonHandle:
        button = self.gui.add_button(label, icon=icon)
        button.on_click(lambda _: self.session.ask(kind))
        return button

    def show_paused(self, paused: bool) -> None:
        """Let the button say what it would do now."""
        self.paused = paused
        self.pause.label = "Resume" if paused else "Pause"
        self.pause.icon = Icon.PLAYER_PLAY if paused else Icon.PLAYER_PAUSE

    def show_finished(self) -> None:
        """Leave out what only a running training can do."""
        self.pause.disabled = True

    def show_steps(self, steps: Sequence[int], chosen: int) -> None:
        """Offer the saved steps of a finished trial on a slider."""
        if len(steps) < 2:
            return
        slider = self.gui.add_slider("Saved step", 0, len(steps) - 1, 1, steps.index(chosen), order=0.5)
        number = self.gui.add_markdown(f"step **{chosen}** of {', '.join(map(str, steps))}", order=0.6)

        @slider.on_update
        def _(_: object) -> None:
            step = steps[int(slider.value)]
            number.content = f"step **{step}** of {', '.join(map(str, steps))}"
            self.session.ask("step", value=step)

    # --------------------------------------------------------------------------------------------------- view

    def _add_view(self) -> None:
        subject = self.session.subject
        kinds: list[str] = [*(available_names(self.session)), MESH] if subject is not None else [MESH]
        self.shown = self.gui.add_dropdown("Show", kinds, initial_value=kinds[0])
        self.shown.on_update(lambda _: self._choose(self.shown.value))
        if self.training:
            live = self.gui.add_checkbox(
                "Follow every step",
                False,
                hint="renders again at the full share of time, also when nobody moves",
            )
            live.on_update(lambda _: setattr(self.stage, "live", live.value))
        cameras = {} if subject is None else subject.cameras
        # A file has none.
        self.cameras_folder = self.gui.add_folder("Cameras", visible=bool(cameras))
        with self.cameras_folder:
            self.gui.add_markdown("Click one to look through it.")
            for name in cameras:
                self._add_cameras(name)
        self._choose(kinds[0])

    def _add_cameras(self, name: str) -> None:
        box = self._cameras[name] = self.gui.add_checkbox(name, name == "reference")
        jump = self.gui.add_button(f"Look through the {name} camera", icon=Icon.EYE)

        def show(_: object = None) -> None:
            subject = self.session.subject
            if subject is not None and name in subject.cameras:
                self.stage.show_cameras(name, subject.cameras[name], box.value)

        def look(event: Clicked) -> None:
            subject = self.session.subject
            if event.client is not None and subject is not None:
                self.stage.jump_to(event.client, subject.cameras[name])

        box.on_update(show)
        jump.on_click(look)
        show()

    def refresh_cameras(self, name: str) -> None:
        """Show cameras that are others now, where they are shown, and offer those that are new."""
        subject = self.session.subject
        if subject is None or name not in subject.cameras:
            return
        if name not in self._cameras:
            self.cameras_folder.visible = True
            with self.cameras_folder:
                self._add_cameras(name)
        elif self._cameras[name].value:
            self.stage.show_cameras(name, subject.cameras[name])

    def _choose(self, name: str) -> None:
        kind: PictureKind | None = shown_kind(name)
        self.stage.show(kind)
        if kind is None and self.session.subject is not None:
            self.session.ask("mesh", value=self._crop())

    # ----------------------------------------------------------------------------------------------- training

    def show_curves(self, history: History) -> None:
        """Draw the chosen curve over steps."""
        names = history.names()
        if not names:
            return
        if names != self._curve_names:
            self._add_curves(names)
        steps, values = history.curves([self._chosen])
        if self._curves is not None and len(steps) > 1:
            self._curves.data = (steps, values)

    def _add_curves(self, names: list[str]) -> None:
        self._curve_names = names
        self._chosen = self._chosen if self._chosen in names else names[0]
        with self.curves_tab:
            if self._curves is not None and self._choice is not None:
                self._curves.remove()
                self._choice.remove()
            choice = self._choice = self.gui.add_dropdown("Curve", names, initial_value=self._chosen)
            choice.on_update(lambda _: setattr(self, "_chosen", choice.value))
            self._curves = self.gui.add_uplot(
                (np.zeros(2), np.zeros(2)),
                (uplot.Series(label="step"), uplot.Series(label="value", stroke=LINES[0], width=1.5)),
                scales={"x": uplot.Scale(time=False, auto=True), "y": uplot.Scale(auto=True)},
                axes=tuple(uplot.Axis(stroke="#aaaaaa", grid={"stroke": "#3a3a3e"}) for _ in range(2)),
                aspect=1.3,
            )

    def show_options(self, options: Mapping[str, LiveOption]) -> None:
        """Offer the options that may change, by the part of the configuration that they belong to."""
        self.options = dict(options)
        folders = dict.fromkeys(heading_of(key) for key in options)
        with self.options_tab:
            self.gui.add_markdown(
                "Changes hold from the next step on, and are kept in `option-changes.jsonl`."
            )
            for folder in folders:
                with self.gui.add_folder(folder):
                    for key, option in options.items():
                        if heading_of(key) == folder:
                            self._add_option(key, option)

    def _add_option(self, key: str, option: LiveOption) -> None:
        """Add an input: a number, a range, or the YAML of a schedule."""
        label, value = short_label(key), option.value
        if isinstance(value, int | float):
            number = self.gui.add_number(
                label, float(value), step=rounded_step(float(value)), hint=option.help
            )
            number.on_update(lambda _: self._type(key, float(number.value)))
        elif key.startswith("data.") and isinstance(value, Sequence) and len(value) == 2:
            low, high = (float(str(end)) for end in value)
            ends = self.gui.add_vector2(label, (low, high), step=0.05, hint=option.help)
            ends.on_update(lambda _: self._type(key, [float(end) for end in ends.value]))
        else:
            text = self.gui.add_text(label, json.dumps(value), hint=f"{option.help}; a number or a schedule")
            text.on_update(lambda _: self._type_text(key, text.value))

    def _type_text(self, key: str, text: str) -> None:
        try:
            self._type(key, json.loads(text))
        except ValueError:
            return  # not finished yet

    def _type(self, key: str, value: Plain) -> None:
        self._typed[key] = (value, time.monotonic())

    def settle(self) -> None:
        """Ask for the changes whose numbers nobody is typing any more."""
        now = time.monotonic()
        for key, (value, at) in list(self._typed.items()):
            if now - at > SETTLED and self._typed.get(key) == (value, at):
                del self._typed[key]
                self.session.ask("change", key, value)

    def _add_insight(self) -> None:
        wanted = self.gui.add_checkbox("Ask the guidance about this view", False)
        level = self.gui.add_slider("Noise level", 0.02, 0.98, 0.02, self.stage.noise_level)
        sheet = self.stage.insight_image = self.gui.add_image(
            np.full((64, 96, 3), 26, np.uint8), visible=False
        )

        def update(_: object) -> None:
            self.stage.insight, self.stage.noise_level = wanted.value, float(level.value)
            sheet.visible = wanted.value

        wanted.on_update(update)
        level.on_update(update)

    # ------------------------------------------------------------------------------------------ video, export

    def _add_video(self) -> None:
        self.keys = self.gui.add_markdown("No key views yet.")
        add = self.gui.add_button("Add this view", icon=Icon.PLUS)
        clear = self.gui.add_button("Clear", icon=Icon.TRASH)
        seconds = self.gui.add_number("Seconds", self.editor.seconds, min=0.1, max=600, step=0.5)
        size = self.gui.add_number("Pixels a side", self.editor.size, min=16, max=2048, step=16)
        loop = self.gui.add_checkbox("Back to the start", self.editor.loop)
        make = self.gui.add_button("Make the video", icon=Icon.MOVIE)
        load = self.gui.add_upload_button("Load a path", mime_type="application/json", icon=Icon.UPLOAD)
        self.video_progress = self.gui.add_progress_bar(0.0, visible=False)
        add.on_click(lambda event: self._add_key(event.client))
        clear.on_click(lambda _: self._set_keys([]))
        load.on_upload(lambda _: self._load_path(load.value.content))

        def start(_: object) -> None:
            self.editor = replace(
                self.editor, seconds=float(seconds.value), loop=loop.value, size=int(size.value)
            )
            if len(self.editor.keys) > 1:
                self.session.ask("video", value=self.editor.request())
            else:
                self.stage.say("A video needs two key views: move, and add another.")

        make.on_click(start)

    def _add_key(self, client: viser.ClientHandle | None) -> None:
        if client is not None:
            self._set_keys([*self.editor.keys, self.stage.key_view(client)])

    def _set_keys(self, keys: list[KeyView]) -> None:
        self.editor.keys = keys
        self.keys.content = f"**{len(keys)}** key views." if keys else "No key views yet."
        self.stage.show_path(keys)

    def _load_path(self, content: bytes) -> None:
        try:
            read = json.loads(content)
            path = parse_camera_path(read if isinstance(read, dict) else {}, "this file")
        except (ValueError, UserError) as error:
            self.stage.say(f"not a camera path: {error}")
            return
        self._set_keys(list(path.keyframes))

    def show_video(self, done: int, frames: int) -> None:
        """Show how far a video is."""
        self.video_progress.visible = done < frames
        assign(self.video_progress, value=100.0 * done / max(1, frames))

    def _add_export(self) -> None:
        use = self.gui.add_checkbox("Cut to a box", False)
        center = self.gui.add_vector3("Center", (0.0, 0.0, 0.0), step=0.01)
        size = self.gui.add_vector3("Size", (1.0, 1.0, 1.0), min=(0.01,) * 3, step=0.01)
        look = self.gui.add_button("Show the mesh", icon=Icon.EYE, hint="as it would be exported now")
        place = None if self.session.subject is None else f"to a folder in {self.session.subject.save}"
        write = self.gui.add_button("Export", icon=Icon.DOWNLOAD, hint=place)
        look.disabled = write.disabled = self.session.subject is None

        def change(_: object) -> None:
            (x, y, z), (a, b, c) = center.value, size.value
            self.crop = CropBox((x, y, z), (a, b, c)) if use.value else None
            self.stage.show_box(self.crop)

        for handle in (use, center, size):
            handle.on_update(change)
        look.on_click(lambda _: self._show_mesh())
        write.on_click(lambda _: self.session.ask("export", value=self._crop()))

    def _show_mesh(self) -> None:
        """Show the mesh as it would be exported now, also where an earlier one is shown."""
        assign(self.shown, value=MESH)
        self._choose(MESH)

    def _crop(self) -> Plain:
        """Return the corners of the crop box; None where nothing is cut."""
        return None if self.crop is None else list(self.crop.corners)


def available_names(session: Session) -> list[str]:
    """Return what the pictures of a session's object can show."""
    from usd.viewer.pictures import available_kinds

    return [] if session.subject is None else [*available_kinds(session.subject.system)]


def heading_of(key: str) -> str:
    """Return the heading under which an option stands: its section of the configuration."""
    return "system.optimizer" if key.startswith("system.optimizer.") else key.rpartition(".")[0]


def short_label(key: str) -> str:
    """Return the name of an option below its heading; a learning rate's is what it is the rate of."""
    if not key.startswith("system.optimizer."):
        return key.rpartition(".")[2]
    return "lr" if key.startswith("system.optimizer.args.") else f"lr of {key.split('.')[-2]}"


def shown_kind(name: str) -> PictureKind | None:
    """Return the kind of pictures that a name of the dropdown means; None for the mesh."""
    kinds: dict[str, PictureKind] = {
        "colors": "colors",
        "opacity": "opacity",
        "depth": "depth",
        "normals": "normals",
    }
    return kinds.get(name)


def rounded_step(value: float) -> float:
    """Return a step for a number's arrows: about a tenth of it, a power of ten."""
    return float(10.0 ** np.floor(np.log10(max(abs(value), 1e-9) / 5))) if value else 0.1


def assign(handle: object, **values: object) -> None:
    """Set attributes: the library's types say that inputs cannot be written to, which they can."""
    for name, value in values.items():
        setattr(handle, name, value)
