"""A Blender add-on: a picture, a sentence or the selected mesh to ``usd serve``, and what it makes back into the scene.

It asks the server every two seconds from a thread, so that Blender never waits for the network.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import bpy

from .client import JobClient, JobError, Progress

bl_info = {
    "name": "USD jobs",
    "author": "The USD contributors",
    "version": (1, 0, 0),
    "blender": (3, 6, 0),
    "location": "3D View > Sidebar > USD",
    "description": "Pictures and sentences to 3D, new textures for meshes",
    "category": "Import-Export",
}
EVERY = 2.0
"""Seconds between two questions."""


class Settings(bpy.types.PropertyGroup):
    """Fields of the panel in Blender's sidebar: the server, what the object is made from, and the recipe."""

    address: bpy.props.StringProperty(name="Server", default="http://127.0.0.1:7008")
    token: bpy.props.StringProperty(name="Token", subtype="PASSWORD")
    kind: bpy.props.EnumProperty(
        name="From",
        items=[
            ("picture", "Picture", "an object from one picture"),
            ("sentence", "Sentence", "an object from words"),
            ("mesh", "Selected mesh", "a new texture for the selected mesh, from a picture of it"),
        ],
    )
    picture: bpy.props.StringProperty(name="Picture", subtype="FILE_PATH")
    sentence: bpy.props.StringProperty(name="Sentence")
    recipe: bpy.props.StringProperty(name="Recipe", description="empty: the usual one")
    overrides: bpy.props.StringProperty(name="Options", description="trainer.max_steps=400 seed=3")


class Watch:
    """The job that is waited for: a thread asks, Blender's timer looks at what it found."""

    def __init__(self) -> None:
        self.client: JobClient | None = None
        self.job, self.message = "", ""
        self.file: Path | None = None
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._progress: Progress | None = None

    def busy(self) -> bool:
        """Return whether a job is waited for."""
        return self.client is not None

    def begin(self, client: JobClient, submit: Callable[[], str]) -> None:
        """Submit a job and wait for it."""
        self.client, self.job, self.message = client, "", "sending"
        self._start(lambda: self._submit(submit))
        bpy.app.timers.register(self.look, first_interval=EVERY)

    def _start(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except JobError as error:
                self._problem = str(error)

        self._thread = threading.Thread(target=guarded, daemon=True)
        self._thread.start()

    def _submit(self, submit: Callable[[], str]) -> None:
        self.job = submit()

    def _ask(self) -> None:
        assert self.client is not None
        progress = self.client.progress(self.job)
        if progress.state == "done" and progress.mesh:
            folder = Path(tempfile.mkdtemp(prefix="usd-"))
            self.file = self.client.download(self.job, progress.mesh, folder / "object.glb")
        self._progress = progress

    def look(self) -> float | None:
        """Take note of what the thread found; called by Blender's timer, which goes on while a number is returned."""
        if self.client is None:
            return None
        if self._thread is not None and self._thread.is_alive():
            return EVERY
        if self._problem or (self._progress is not None and self._progress.has_ended):
            self._end(self._progress)
            return None
        if self._progress is not None:
            self.message = f"{self._progress.state} {self._progress.text}"
        self._start(self._ask)
        return EVERY

    def _end(self, progress: Progress | None) -> None:
        """Import what was made, or say why there is nothing."""
        self.message = self._problem or (f"{progress.state} {progress.text}" if progress else "")
        if self.file is not None:
            bpy.ops.import_scene.gltf(filepath=str(self.file))
        self.client, self.file, self._problem, self._progress = None, None, "", None


WATCH = Watch()


def selected_mesh(context: bpy.types.Context) -> Path:
    """Write the selected meshes to a temporary .glb and return its path. Raises ``JobError`` where none is selected."""
    if not any(item.type == "MESH" for item in context.selected_objects):
        raise JobError("no mesh is selected")
    path = Path(tempfile.mkdtemp(prefix="usd-")) / "selected.glb"
    bpy.ops.export_scene.gltf(filepath=str(path), export_format="GLB", use_selection=True)
    return path


class USD_OT_submit(bpy.types.Operator):
    """Send it to the server, and import what it makes."""

    bl_idname = "usd.submit"
    bl_label = "Make it"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Submit what the panel says; the selected mesh is written first."""
        settings = context.scene.usd_jobs
        picture = None if settings.kind == "sentence" else Path(bpy.path.abspath(settings.picture))
        try:
            client = JobClient(settings.address, settings.token)
            mesh = selected_mesh(context) if settings.kind == "mesh" else None
        except JobError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        words = settings.sentence if settings.kind == "sentence" else ""
        recipe, overrides = settings.recipe, settings.overrides
        WATCH.begin(client, lambda: client.submit(words, picture, mesh, recipe, overrides))
        return {"FINISHED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Return whether the button can be pressed: no job is waited for."""
        return not WATCH.busy()


class USD_OT_cancel(bpy.types.Operator):
    """End the job on the server."""

    bl_idname = "usd.cancel"
    bl_label = "Cancel"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Wait no more, and tell the server."""
        if WATCH.client is not None and WATCH.job:
            client, job = WATCH.client, WATCH.job
            threading.Thread(target=_cancel, args=(client, job), daemon=True).start()
        WATCH.client, WATCH.message = None, "canceled"
        return {"FINISHED"}


def _cancel(client: JobClient, job: str) -> None:
    try:
        client.order(job, "cancel")
    except JobError as error:
        WATCH.message = str(error)


class USD_PT_panel(bpy.types.Panel):
    """The panel in the 3D view's sidebar."""

    bl_label = "USD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "USD"

    def draw(self, context: bpy.types.Context) -> None:
        """Lay out the options, the buttons, and the last thing the server said."""
        settings, layout = context.scene.usd_jobs, self.layout
        shown = ["address", "token", "kind", "sentence" if settings.kind == "sentence" else "picture"]
        for name in [*shown, "recipe", "overrides"]:
            layout.prop(settings, name)
        layout.operator(USD_OT_submit.bl_idname)
        if WATCH.busy():
            layout.operator(USD_OT_cancel.bl_idname)
        if WATCH.message:
            layout.label(text=WATCH.message)


CLASSES = (Settings, USD_OT_submit, USD_OT_cancel, USD_PT_panel)


def register() -> None:
    """Add the panel to Blender."""
    for one in CLASSES:
        bpy.utils.register_class(one)
    bpy.types.Scene.usd_jobs = bpy.props.PointerProperty(type=Settings)


def unregister() -> None:
    """Take the panel away."""
    WATCH.client = None
    del bpy.types.Scene.usd_jobs
    for one in reversed(CLASSES):
        bpy.utils.unregister_class(one)
