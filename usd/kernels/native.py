"""C++ functions of this folder, as Warp takes them.

Warp writes the head of a native function itself, from a declaration in Python, and takes the body as text. Here that
text is the body of a whole C++ function in a file of its own, which an editor, a compiler and a reader can follow.
"""

import re
from pathlib import Path

FOLDER = Path(__file__).parent
FUNCTION = r"^inline void {name}\((?P<arguments>[^)]*)\)\n\{{\n(?P<body>.*?)^\}}"
INCLUDE = re.compile(r'^#include "(\w+\.h)"\n', re.MULTILINE)


def native_body(file: str, name: str, **macros: object) -> str:
    """Return the body of the C++ function ``name``, with the files of this folder that it includes.

    ``macros`` are defined in it, and not behind it. Raises ``ValueError`` where the file has no such function.
    """
    body = _match(file, name)["body"]
    # Warp compiles text without a folder to include from; included files may include others.
    while INCLUDE.search(body):
        body = INCLUDE.sub(lambda line: (FOLDER / line[1]).read_text(encoding="utf-8"), body)
    # Defined inside the body only: another kernel of the module may use the same names.
    defined = "".join(f"#define {macro} {value}\n" for macro, value in macros.items())
    return defined + body + "".join(f"#undef {macro}\n" for macro in macros)


def _match(file: str, name: str) -> re.Match[str]:
    text = (FOLDER / file).read_text(encoding="utf-8")
    found = re.search(FUNCTION.format(name=name), text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{file} has no function {name}")
    return found
