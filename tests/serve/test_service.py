"""The service over HTTP: what it takes, refuses and hands out, and browsers that go away."""

import contextlib
import json
import socket
import threading
import time
import zlib

import pytest

from tests.serve.conftest import png, wait_until

pytest.importorskip("python_multipart")
TestClient = pytest.importorskip("fastapi.testclient").TestClient

from usd.batch.checks import check_task  # noqa: E402
from usd.serve.service import make_service  # noqa: E402

BASE = "http://127.0.0.1:7008"
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture
def queue(tmp_path, make_queue):
    return make_queue(tmp_path)


@pytest.fixture
def client(queue):
    return TestClient(make_service(queue, largest_mb=0.05), base_url=BASE)


def submit(client, mode="done", picture=None, **form):
    files = {"picture": ("my car.png", picture)} if picture is not None else None
    return client.post("/api/jobs", data={"overrides": [f"mode={mode}"], **form}, files=files)


def ended(client, job_id):
    wait_until(lambda: client.get(f"/api/jobs/{job_id}").json()["state"] in ("done", "failed"))
    return client.get(f"/api/jobs/{job_id}").json()


# -------------------------------------------------------------------------------------------------------- a job's life


def test_a_picture_is_made_into_files_and_a_report(client):
    answer = submit(client, picture=png())
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["title"], job["recipe"], job["state"]) == ("my car", "usd-patch-mini", "queued")
    done = ended(client, job["id"])
    assert done["state"] == "done" and done["error"] == ""
    assert client.get(done["preview"]).content == b"picture of step 5"
    report = client.get(done["report"])
    assert report.text == "<p>report</p>" and report.headers["content-type"].startswith("text/html")
    assert report.headers["content-security-policy"].startswith("sandbox")
    files = {file["path"]: file["bytes"] for file in client.get(f"/api/jobs/{job['id']}/files").json()}
    assert files["input.png"] == len(png()) and "job.json" not in files
    address = f"/api/jobs/{job['id']}/files/object/object/save/it5-0.png"
    assert client.get(address).content == b"picture of step 5"
    assert client.get(f"/api/jobs/{job['id']}/log").status_code == 200


def test_a_sentence_has_no_preview_at_first_and_a_picture_is_its_own(client):
    words = submit(client, "wait", sentence="  a red\n car ").json()
    assert words["prompt"] == "a red car" and words["preview"] is None
    assert client.get(f"/api/jobs/{words['id']}/preview").status_code == 404
    picture = submit(client, "wait", picture=png()).json()
    assert client.get(picture["preview"]).content == png()
    assert client.get(f"/api/jobs/{words['id']}/report").status_code == 404


def test_jobs_are_listed_newest_first_paused_and_cancelled(client):
    first, second = (submit(client, "wait", sentence=text).json()["id"] for text in ("a car", "a duck"))
    assert [job["id"] for job in client.get("/api/jobs").json()] == [second, first]
    assert client.post(f"/api/jobs/{second}/pause").json()["state"] == "paused"
    assert [job["id"] for job in client.get("/api/jobs?state=paused").json()] == [second]
    assert client.post(f"/api/jobs/{first}/cancel").json()["state"] in ("cancelling", "cancelled")
    wait_until(lambda: client.get(f"/api/jobs/{first}").json()["state"] == "cancelled")
    conflict = client.post(f"/api/jobs/{first}/pause")
    assert (conflict.status_code, conflict.json()["detail"]) == (409, "pause: the job is cancelled")
    assert client.post(f"/api/jobs/{first}/destroy").status_code == 422
    assert client.post("/api/jobs/00007-abcdef/pause").status_code == 404


def test_recipes_are_those_that_a_picture_or_a_sentence_is_enough_for(client):
    found = {recipe["name"]: recipe for recipe in client.get("/api/recipes").json()}
    assert found["usd-patch-mini"] == {"name": "usd-patch-mini", "input": "picture", "is_default": True}
    assert (
        found["usd-text-to-3D-mini"]["input"] == "sentence" and found["usd-full-mini"]["input"] == "picture"
    )
    assert found["usd-improve-mini"]["input"] == "mesh"
    assert not {"nerf-blender", "usd-text-to-3D-texture-mini", "8gb"} & set(found)


def test_the_description_names_every_request(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/jobs", "/api/jobs/{job_id}/files/{path}", "/api/jobs/{job_id}/{request}"} <= set(paths)
    form = paths["/api/jobs"]["post"]["requestBody"]["content"]
    assert set(form) == {"multipart/form-data"}
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


# --------------------------------------------------------------------------------------------------------- bad requests


def flat(width: int, height: int) -> bytes:
    """A PNG that says it is large, in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a picture; expected PNG, JPEG or WebP"),
        (b"<svg onload='alert(1)'/>", "cannot be read as a picture"),
        (png(64, 64)[:-20], "cannot be read as a picture"),
        (png(64, 64).replace(b"IDAT", b"IDAX"), "cannot be read as a picture"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "expected PNG, JPEG or WebP"),
        (flat(9000, 8000), "has 9000 x 8000 pixels; expected at most 64 million"),
        (flat(60_000, 60_000), "has too many pixels; expected at most 64 million"),
    ],
    ids=["nothing", "svg", "cut off", "damaged", "gif", "large", "bomb"],
)
def test_an_upload_that_is_no_picture_is_refused_and_leaves_nothing(client, tmp_path, content, message):
    answer = submit(client, picture=content)
    assert answer.status_code == 422 and message in answer.json()["detail"]
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_is_too_large_is_refused_by_its_header_and_by_its_length(client, tmp_path):
    answer = submit(client, picture=png() + bytes(60_000))
    assert answer.status_code == 413 and "at most 0 MB" in answer.json()["detail"]

    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(1000)

    streamed = client.post(
        "/api/jobs", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert streamed.status_code == 413
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "picture, sentence: both are missing"),
        ({"sentence": " "}, "both are missing"),
        ({"sentence": "x" * 1001}, "sentence: String should have at most 1000 characters"),
        ({"sentence": "a car", "recipe": "usd-patch-mini"}, "makes nothing from a sentence"),
        ({"sentence": "a car", "recipe": "usd-text-to-3d-min"}, "Did you mean"),
        ({"sentence": "a car", "recipe": "../../etc/passwd"}, "makes nothing from a sentence"),
        ({"sentence": "a car", "overrides": ["--config"]}, "expected key=value"),
        ({"sentence": "a car", "overrides": ["exp_root_dir=x"]}, "the server's own"),
        ({"sentence": "a car", "overrides": ["stages.mesh.tag=x"]}, "the server's own"),
        ({"sentence": "a car", "overrides": ["viewer.enable=true"]}, "the server's own"),
        ({"sentence": "a car", "overrides": ["system.x=/etc/passwd"]}, "a file or variable of the server"),
        ({"sentence": "a car", "overrides": ["system.x=[a, '../b']"]}, "a file or variable of the server"),
        ({"sentence": "a car", "overrides": ["system.x=${oc.env:HOME}"]}, "a file or variable of the server"),
        ({"sentence": "a car", "overrides": ["system.x=mesh:C:\\\\x"]}, "a file or variable of the server"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(client, tmp_path, form, message):
    answer = client.post("/api/jobs", data=form)
    detail = answer.json()["detail"]
    assert answer.status_code == 422 and message in detail and len(detail) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", ["400", "[0, 0.98, 0.5, 600]", "toybox-sd", "load/prompt.json", "1e-3", "a, b; c"]
)
def test_options_of_a_recipe_may_be_set(client, value):
    assert submit(client, sentence="a car", overrides=[f"system.guidance.x={value}"]).status_code == 201


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "object/..%2f..%2f..%2fsecret.txt",
        "%2fetc/passwd",
        "//etc/passwd",
        "..%5csecret.txt",
        "job.json",
        "object/../job.json",
        "%00",
        ".hidden",
        "link.txt",
        "object",
        "",
    ],
)
def test_no_path_leads_out_of_a_job(client, queue, tmp_path, path):
    job = ended(client, submit(client, sentence="a car").json()["id"])
    folder = tmp_path / job["id"]
    (tmp_path / "secret.txt").write_text("secret")
    (folder / ".hidden").write_text("secret")
    with contextlib.suppress(OSError):
        (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    answer = client.get(f"/api/jobs/{job['id']}/files/{path}", follow_redirects=False)
    assert (
        answer.status_code in (404, 405, 307) and "secret" not in answer.text and "request" not in answer.text
    )
    assert not {"link.txt", ".hidden"} & {
        f["path"] for f in client.get(f"/api/jobs/{job['id']}/files").json()
    }


@pytest.mark.parametrize("job_id", ["%2e%2e", "..%5c", "00001-abcdef", "%2e%2e%2f%2e%2e"])
def test_no_id_leads_to_another_folder(client, job_id):
    for end in ("", "/files", "/preview", "/log", "/files/x"):
        assert client.get(f"/api/jobs/{job_id}{end}").status_code in (404, 405)


# -------------------------------------------------------------------------------------------------------- who may come


def test_another_name_of_this_machine_is_refused(client):
    for host in (
        "evil.example",
        "evil.example:7008",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[",
        "",
    ):
        answer = client.get("/api/jobs", headers={"Host": host})
        assert answer.status_code == 403 and "its own machine" in answer.json()["detail"]
    for host in ("localhost:7008", "LOCALHOST", "127.0.0.1:1", "[::1]:7008"):
        assert client.get("/api/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_a_page_of_another_site_cannot_submit(client, headers, tmp_path):
    answer = client.post("/api/jobs", data={"sentence": "a car"}, headers=headers)
    assert answer.status_code == 403 and list(tmp_path.iterdir()) == []
    assert client.post("/api/jobs", data={"sentence": "a car"}, headers={"Origin": BASE}).status_code == 201


def test_another_address_wants_the_token_for_everything(queue):
    client = TestClient(make_service(queue, TOKEN, "0.0.0.0"), base_url="http://server:7008")
    for path in ("/", "/page.js", "/openapi.json", "/api/jobs", "/api/jobs/x/files/y"):
        assert client.get(path).status_code == 401
        assert client.get(path, params={"token": TOKEN[:-1]}).status_code == 401
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
        assert client.get(path, headers={"Cookie": "usd_serve_token=ä".encode()}).status_code == 401
    assert client.post("/api/jobs", data={"sentence": "a car"}).status_code == 401
    assert client.get("/api/jobs", headers={"Authorization": f"Bearer {TOKEN}"}).json() == []


def test_a_browser_trades_the_token_for_a_cookie(queue):
    client = TestClient(make_service(queue, TOKEN, "0.0.0.0"), base_url="http://server:7008")
    first = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert first.status_code == 303 and first.headers["location"] == "/"
    assert (
        "HttpOnly" in first.headers["set-cookie"] and "samesite=strict" in first.headers["set-cookie"].lower()
    )
    assert client.get("/").status_code == 200 and client.get("/api/jobs").json() == []


def test_the_page_stands_alone(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["x-frame-options"] == "DENY"
    for name in ("", "page.css", "page.js"):
        text = client.get(f"/{name}").text
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text
    assert client.get("/page.html").status_code == 404


# ------------------------------------------------------------------------------------------------- a real connection


@pytest.fixture
def port(queue):
    uvicorn = pytest.importorskip("uvicorn")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(make_service(queue), log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def head(port, length, kind="multipart/form-data; boundary=x"):
    lines = [
        f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_browser_that_goes_away_in_an_upload_leaves_no_job(port, queue, tmp_path):
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(head(port, 1_000_000) + b'--x\r\nContent-Disposition: form-data; name="picture"; ')
        time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(
            f"GET /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        assert browser.makefile("rb").read().endswith(b"[]")
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_made_though_its_browser_went_away_before_the_answer(port, queue):
    body = b"sentence=a+car"
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(head(port, len(body), "application/x-www-form-urlencoded") + body)
    wait_until(lambda: [job.state for job in queue.store.all()] == ["done"])


def test_a_record_on_disk_is_json_that_a_person_can_read(client, tmp_path):
    job = submit(client, sentence="a car").json()
    record = json.loads((tmp_path / job["id"] / "job.json").read_text())
    assert record["request"]["prompt"] == "a car" and record["id"] == job["id"]


# --------------------------------------------------------------------------------------------- before its turn comes


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            {"sentence": "a car", "overrides": ["system.guidnce=1"]},
            "system.guidnce: unknown key. Did you mean",
        ),
        ({"sentence": "a car", "overrides": ["seed=many"]}, "seed: expected"),
        ({"sentence": "ein rotes Auto"}, "knows none of these words"),
    ],
)
def test_a_job_that_is_known_to_fail_is_refused_when_it_is_submitted(tmp_path, make_queue, form, said):
    client = TestClient(make_service(make_queue(tmp_path, check=check_task)), base_url=BASE)
    answer = client.post("/api/jobs", data=form)
    assert answer.status_code == 422 and said in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"] and list(tmp_path.iterdir()) == []
    assert client.post("/api/jobs", data={"sentence": "a car", "overrides": ["seed=3"]}).status_code == 201
