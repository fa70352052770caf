import re

import pytest

from usd.kernels import hash_grid_warp, ray_march_warp
from usd.kernels.native import FOLDER, native_body


def native_arguments(file: str, name: str) -> list[str]:
    """Names of the arguments of a C++ function."""
    head = re.search(rf"^inline void {name}\((.*?)\)$", (FOLDER / file).read_text(), re.MULTILINE | re.DOTALL)
    assert head is not None
    return re.findall(r"(\w+)\s*(?:,|$)", re.sub(r"<[^()]*?>+", "", head[1]))


def test_a_body_holds_what_it_includes_and_defines_its_macros_only_inside():
    body = native_body("ray_march.h", "composite_ray", NUMBER=7)
    assert body.startswith("#define NUMBER 7\n") and body.endswith("#undef NUMBER\n")
    assert "look_back" in body and "#include" not in body and "composite_ray" not in body.splitlines()[1]


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"ray_march\.h has no function composite_rays"):
        native_body("ray_march.h", "composite_rays")


@pytest.mark.parametrize(
    "name", ["find_samples_of_ray", "write_samples_of_ray", "composite_ray", "composite_ray_backward"]
)
def test_declarations_for_warp_have_the_arguments_of_the_function(name):
    declared = list(getattr(ray_march_warp, name).input_types)
    assert declared == native_arguments("ray_march.h", name)


def test_declarations_of_the_hash_grid_have_the_arguments_of_the_function():
    assert list(hash_grid_warp.sum_over_points("pull", 2).input_types) == native_arguments(
        "hash_grid.h", "sum_over_points"
    )


def test_every_line_of_c_plus_plus_fits_into_an_editor():
    files = sorted(FOLDER.glob("*.h"))
    assert files
    for file in files:
        assert max(map(len, file.read_text().splitlines())) <= 120, file.name
