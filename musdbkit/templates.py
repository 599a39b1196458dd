"""The files in `templates/`: found from a wheel, an editable install and a plain checkout alike.

A wheel holds them as `musdbkit/_templates`; in a checkout they lie beside the package.
"""

from pathlib import Path

from musdbkit.errors import MusdbkitError


def read(name: str) -> str:
    """Return the text of a template, `spleeter_2stems.json` for instance.

    Raises
    ------
    MusdbkitError
        The installation lacks the file.
    """
    package = Path(__file__).parent
    for folder in (package / "_templates", package.parent / "templates"):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise MusdbkitError(f"template {name} is not in this installation: reinstall musdbkit")
