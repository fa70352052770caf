"""Matting by a network in an ONNX file: conventions, colors at the edge, and the command; networks are made here."""

import numpy as np
import pytest
import torch

from usd.app import matte_command
from usd.core.errors import UserError
from usd.data.matting import MattingModel, cut_out, refine_edge, trimap_of
from usd.data.pictures import read_rgba, write_picture

pytest.importorskip("onnxruntime")
pytest.importorskip("pymatting")
onnx = pytest.importorskip("onnx")

RED, BEHIND = (0.9, 0.2, 0.1), (0.1, 0.3, 0.8)


def write_network(path, side: int, weight: float = 1.0, offset: float = 0.0):
    """A network whose output is weight * (red - blue) + offset of its input."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.array([weight, 0, -weight], np.float32).reshape(1, 3, 1, 1)
    values = [
        numpy_helper.from_array(kernel, "k"),
        numpy_helper.from_array(np.array([offset], np.float32), "b"),
    ]
    node = helper.make_node("Conv", ["picture", "k", "b"], ["alpha"])
    shapes = [("picture", [1, 3, side, side]), ("alpha", [1, 1, side, side])]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph([node], "matting", [given], [made], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def disc(height: int = 60, width: int = 80) -> torch.Tensor:
    """Alpha of a disc with an edge of two pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return ((20.5 - torch.hypot(x - width / 2, y - height / 2)) / 2).clamp(0, 1)


def photo(alpha: torch.Tensor) -> torch.Tensor:
    front, back = (torch.tensor(color)[:, None, None] for color in (RED, BEHIND))
    return front * alpha + back * (1 - alpha)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("u2netp.onnx", 320, 320),
        ("mine.onnx", 320, 320),
        ("isnet-general-use.onnx", 256, 256),
        ("DIS.onnx", 64, 64),
    ],
)
def test_the_disc_is_found_by_networks_that_stretch_their_output(tmp_path, name, side, expected):
    model = MattingModel.open(write_network(tmp_path / name, side))
    assert model.side == expected and model.convention.by_maximum == (side == 320)
    assert (model.alpha(photo(disc())) - disc()).abs().mean() < 0.02


def test_a_birefnets_output_goes_through_a_sigmoid(tmp_path):
    model = MattingModel.open(write_network(tmp_path / "BiRefNet-lite.onnx", 64, weight=3.0))
    alpha = model.alpha(photo(disc()))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for color, place in ((RED, (30, 40)), (BEHIND, (2, 2))):
        level = (np.array(color) - mean) / deviation
        expected = 1 / (1 + np.exp(-3 * (level[0] - level[2])))
        assert float(alpha[place]) == pytest.approx(expected, abs=1e-3)


def test_colors_at_the_edge_are_the_objects_own(tmp_path):
    """In the photograph the edge is mixed with the blue behind it; in the cut-out it is not."""
    model = MattingModel.open(write_network(tmp_path / "isnet.onnx", 80))
    rgba = cut_out(model, photo(disc()))
    edge = (rgba[3] > 0.3) & (rgba[3] < 0.9)
    mixed = photo(disc())[:, edge] - torch.tensor(RED)[:, None]
    own = rgba[:3, edge] - torch.tensor(RED)[:, None]
    assert int(edge.sum()) > 60 and own.abs().mean() < 0.3 * mixed.abs().mean()


def test_an_edge_that_is_too_wide_is_refined_by_the_colors(tmp_path):
    true = disc()
    blurred = torch.nn.functional.avg_pool2d(true[None], 5, 1, 2, count_include_pad=False)[0]
    refined = refine_edge(photo(true), blurred)
    assert (refined - true).abs().mean() < 0.4 * (blurred - true).abs().mean()
    assert set(trimap_of(true).unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(refine_edge(photo(true), torch.ones_like(true)), torch.ones_like(true))


def test_the_command_cuts_photographs_out_and_makes_masks_of_captures(tmp_path, capsys, monkeypatch):
    network = write_network(tmp_path / "u2net.onnx", 320)
    write_picture(tmp_path / "in/a.png", photo(disc()))
    write_picture(tmp_path / "in/below/b.png", photo(disc()))
    assert (
        matte_command.main(
            [str(tmp_path / "in/a.png"), str(tmp_path / "a_rgba.png"), "--model", str(network)]
        )
        == 0
    )
    assert (read_rgba(tmp_path / "a_rgba.png")[3] - disc()).abs().mean() < 0.02
    monkeypatch.setattr(matte_command, "USUAL", tmp_path)
    assert matte_command.main([str(tmp_path / "in"), str(tmp_path / "masks"), "--masks"]) == 0
    mask = read_rgba(tmp_path / "masks/below/b.png")
    assert (mask[0] - disc()).abs().mean() < 0.02 and float(mask[3].min()) == 1
    assert f"network {network}" in capsys.readouterr().out


def test_what_cannot_be_matted_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no\.onnx: cannot be read as an ONNX network"):
        MattingModel.open(tmp_path / "no.onnx")
    with pytest.raises(UserError, match=r"u2net\.onnx: no such file; expected an ONNX network"):
        MattingModel.open(tmp_path / "u2net.onnx")
    with pytest.raises(UserError, match=r"--model: not given, and .* has no \.onnx file"):
        matte_command.find_model(tmp_path / "empty")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        matte_command.pairs(tmp_path / "nothing", tmp_path, masks=False)
