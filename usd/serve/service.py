"""The web service: jobs as JSON, their files, and the page on top. ``/openapi.json`` describes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

import usd
from usd.core.errors import UserError
from usd.serve import outputs
from usd.serve.access import AccessControl
from usd.serve.job_queue import JobQueue, QueueFullError, StateConflictError
from usd.serve.jobs import Job, JobRequest, State, checked_overrides
from usd.serve.recipes import DEFAULTS, Input, chosen_recipe, offered
from usd.serve.uploads import LARGEST_MB, check_mesh, check_picture

PAGE = Path(__file__).with_name("page")
PAGE_FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ISOLATED = "sandbox allow-scripts allow-downloads allow-popups"
"""Policy of a job's own files: a script in them is a stranger to the service's address."""
PICTURES_TAKEN = f"PNG, JPEG or WebP, {LARGEST_MB} MB"
LONGEST_SENTENCE = 1000
MOST_OVERRIDES = 100


@dataclass(frozen=True)
class JobStatus:
    """A job as the service tells it. Addresses are relative to the service's; null where there is nothing yet."""

    id: str
    title: str
    recipe: str
    prompt: str
    overrides: tuple[str, ...]
    state: State
    created: float
    seconds: float
    attempts: int
    error: str
    figures: dict[str, float]
    progress: outputs.JobProgress | None
    preview: str | None
    report: str | None


@dataclass(frozen=True)
class RecipeOffer:
    """A recipe that a job may name, and what it makes an object from."""

    name: str
    input: Input
    is_default: bool


def job_queue(request: Request) -> JobQueue:
    """Return the queue that the request's service stands on."""
    queue = request.app.state.jobs
    assert isinstance(queue, JobQueue)
    return queue


Jobs = Annotated[JobQueue, Depends(job_queue)]
router = APIRouter(prefix="/api")


def status_of(jobs: JobQueue, job: Job) -> JobStatus:
    """Return a job with what its folder says."""
    result, address = jobs.store.result(job), f"/api/jobs/{job.id}"
    preview = outputs.preview_of(result)
    shown = f"{address}/preview" + (f"?at={preview.stat().st_mtime_ns}" if preview else "")
    request = job.request
    return JobStatus(
        id=job.id,
        title=request.title,
        recipe=request.recipe,
        prompt=request.prompt,
        overrides=request.overrides,
        state=job.state,
        created=job.created,
        seconds=job.seconds,
        attempts=job.attempts,
        error=job.error,
        figures=job.figures,
        progress=outputs.progress_of(result) if job.state in ("running", "pausing", "paused") else None,
        preview=shown if preview or job.picture else None,
        report=f"{address}/report" if outputs.report_of(result) else None,
    )


def known_job(jobs: JobQueue, job_id: str) -> Job:
    """Return a job by its id; an unknown one is answered with 404."""
    try:
        return jobs.store.get(job_id)
    except KeyError:
        raise HTTPException(404, "there is no such job") from None


@router.get("/recipes")
def list_recipes() -> list[RecipeOffer]:
    """Return the recipes that a picture, or a sentence, is enough for."""
    return [RecipeOffer(name, kind, name in DEFAULTS.values()) for name, kind in offered().items()]


@router.post("/jobs", status_code=201)
def submit_job(
    jobs: Jobs,
    picture: Annotated[UploadFile | None, File(description=PICTURES_TAKEN)] = None,
    mesh: Annotated[UploadFile | None, File(description="a .glb with a texture")] = None,
    sentence: Annotated[str, Form(max_length=LONGEST_SENTENCE)] = "",
    recipe: Annotated[str, Form(description="name of a recipe; by default the usual one")] = "",
    overrides: Annotated[list[str], Form(description="key=value, each")] = [],  # noqa: B006 - read only
) -> JobStatus:
    """Queue an object: from a picture, a sentence, both, or a mesh and a picture of it (its texture is made anew)."""
    sentence = " ".join(sentence.split())
    checked = check_picture(picture.file.read()) if picture is not None else None
    if mesh is not None and checked is None:
        raise UserError("mesh: a picture of it is missing; expected both")
    if checked is None and not sentence:
        raise UserError("picture, sentence: both are missing; expected one of them")
    if len(overrides) > MOST_OVERRIDES:
        raise UserError(f"overrides: {len(overrides)} of them; expected at most {MOST_OVERRIDES}")
    content = check_mesh(mesh.file.read()) if mesh is not None else b""
    name = chosen_recipe(recipe.strip(), "mesh" if content else "picture" if checked else "sentence")
    upload = Path((picture.filename if picture else "") or "picture").stem[:80]
    request = JobRequest(name, sentence or upload, sentence, checked_overrides(overrides))
    return status_of(jobs, jobs.submit(request, checked, content))


@router.get("/jobs")
def list_jobs(
    jobs: Jobs, limit: Annotated[int, Query(ge=1, le=1000)] = 100, state: State | None = None
) -> list[JobStatus]:
    """Return the latest jobs, newest first."""
    chosen = [job for job in reversed(jobs.store.all()) if state in (None, job.state)]
    return [status_of(jobs, job) for job in chosen[:limit]]


@router.get("/jobs/{job_id}")
def show_job(jobs: Jobs, job_id: str) -> JobStatus:
    """Return one job."""
    return status_of(jobs, known_job(jobs, job_id))


@router.post("/jobs/{job_id}/{request}")
def change_job(jobs: Jobs, job_id: str, request: Literal["pause", "resume", "cancel"]) -> JobStatus:
    """Pause a job with its step saved, go on with it, or cancel it. What was made stays."""
    return status_of(jobs, jobs.ask(known_job(jobs, job_id).id, request))


@router.get("/jobs/{job_id}/preview", response_class=FileResponse)
def show_preview(jobs: Jobs, job_id: str) -> FileResponse:
    """Return the newest picture of a job's object; before there is one, the picture it is made from."""
    job = known_job(jobs, job_id)
    file = outputs.preview_of(jobs.store.result(job))
    if file is None and job.picture:
        file = jobs.store.path(job) / job.picture
    if file is None:
        raise HTTPException(404, "there is no picture yet")
    return FileResponse(file)


@router.get("/jobs/{job_id}/files")
def list_files(jobs: Jobs, job_id: str) -> list[outputs.ResultFile]:
    """Return the files of a job."""
    return outputs.result_files(jobs.store.path(known_job(jobs, job_id)))


@router.get("/jobs/{job_id}/files/{path:path}", response_class=FileResponse)
def fetch_file(jobs: Jobs, job_id: str, path: str) -> FileResponse:
    """Return one file of a job, by its path in the list of files."""
    try:
        file = outputs.result_file(jobs.store.path(known_job(jobs, job_id)), path)
    except (OSError, ValueError):
        raise HTTPException(404, "there is no such file") from None
    return FileResponse(file, filename=file.name, headers={"Content-Security-Policy": ISOLATED})


@router.get("/jobs/{job_id}/report", response_class=FileResponse)
def show_report(jobs: Jobs, job_id: str) -> FileResponse:
    """Return the newest report of a job, a page."""
    file = outputs.report_of(jobs.store.result(known_job(jobs, job_id)))
    if file is None:
        raise HTTPException(404, "there is no report yet")
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": ISOLATED})


@router.get("/jobs/{job_id}/log", response_class=PlainTextResponse)
def show_log(jobs: Jobs, job_id: str) -> PlainTextResponse:
    """Return the end of a job's log."""
    return PlainTextResponse(outputs.log_end(jobs.store.result(known_job(jobs, job_id))))


def page_file(name: str) -> FileResponse:
    """Return the page, its style or its script."""
    return FileResponse(PAGE / PAGE_FILES[name], headers={"Content-Security-Policy": PAGE_POLICY})


def _page(name: str) -> Callable[[], FileResponse]:
    return lambda: page_file(name)


def _refused(_: Request, error: Exception) -> JSONResponse:
    codes = {UserError: 422, QueueFullError: 429, StateConflictError: 409}
    return JSONResponse(
        {"detail": str(error)}, next(code for kind, code in codes.items() if isinstance(error, kind))
    )


def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Return the first of the mistakes that FastAPI found, as one line without what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def make_service(
    jobs: JobQueue, token: str = "", host: str = "127.0.0.1", largest_mb: float = LARGEST_MB
) -> FastAPI:
    """Return the service on a queue; with a token, only who has it may come in."""
    service = FastAPI(
        title="usd serve",
        version=usd.__version__,
        description="Objects from pictures and sentences, as jobs.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    service.state.jobs = jobs
    service.include_router(router)
    for name in PAGE_FILES:
        service.get(f"/{name}", include_in_schema=False)(_page(name))
    for kind in (UserError, QueueFullError, StateConflictError):
        service.add_exception_handler(kind, _refused)
    service.add_exception_handler(RequestValidationError, _malformed)
    service.add_middleware(AccessControl, token=token, host=host, limit=int(largest_mb * 1e6))
    return service
