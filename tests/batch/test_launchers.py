"""What Ray is started with: it keeps to this machine and asks for a token, unless a cluster is named."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from usd.batch import launchers
from usd.batch.launchers import Cluster, Share

VARIABLES = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_USAGE_STATS_ENABLED",
)


@pytest.fixture
def started(monkeypatch) -> list[dict[str, Any]]:
    """The arguments of every start of Ray, which has two cores."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    calls: list[dict[str, Any]] = []
    ray = SimpleNamespace(
        init=lambda **settings: calls.append({**settings, "environment": dict(os.environ)}),
        cluster_resources=lambda: {"CPU": 2.0},
        remote=lambda **_: lambda function: function,
        shutdown=lambda: None,
    )
    monkeypatch.setattr(launchers, "package", lambda: ray)
    return calls


def test_a_ray_of_ones_own_listens_on_this_machine_only_and_asks_for_a_token(started, capsys):
    Cluster(None, Share(), 2)
    (call,) = started
    assert (call["address"], call["_node_ip_address"], call["include_dashboard"]) == (
        "local",
        "127.0.0.1",
        False,
    )
    assert call["environment"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # else Ray replaces that address
    assert (
        call["environment"]["RAY_AUTH_MODE"] == "token" and len(call["environment"]["RAY_AUTH_TOKEN"]) == 64
    )
    assert capsys.readouterr().out == ""


def test_a_token_of_the_user_is_the_token(started, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    Cluster(None, Share(), 2)
    assert "RAY_AUTH_TOKEN" not in started[0]["environment"]


@pytest.mark.parametrize(("mode", "said"), [(None, True), ("disabled", True), ("token", False)])
def test_a_named_cluster_is_taken_as_it_is_and_an_open_one_is_pointed_out(
    started, monkeypatch, capsys, mode, said
):
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    Cluster("head:6379", Share())
    (call,) = started
    assert call["address"] == "head:6379" and "_node_ip_address" not in call
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in call["environment"]
    text = capsys.readouterr().out
    assert text.startswith("note: --address head:6379: whoever reaches this cluster can run programs") == said
    assert ("RAY_AUTH_MODE=token" in text) == said
