"""Configuration of Sphinx: the guide in Markdown, equations as MathML, the API from docstrings."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import stepwise

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402

project = "stepwise"
author = "The stepwise authors"
release = version = stepwise.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "stepwise"
html_math_renderer = "mathml"
exclude_patterns = ["build", "laws_template.md"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures name shapes; shapes are in the text
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False


def plain_marks(
    app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]
) -> None:
    """Escape reStructuredText in docstrings, which are plain text with `names` in backticks."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``[^`]+``|`[^`]+`|:\w+(?: [\w., ]+)?:)", line)
        lines[i] = re.sub(r"``(?=\w)(?<=\w``)", r"``\\ ", "".join(_mark(part) for part in parts))


def _mark(part: str) -> str:
    if part.startswith("``") or re.fullmatch(r":\w+(?: [\w., ]+)?:", part):
        return part
    if part.startswith("`"):
        return f"``{part.strip('`')}``"
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([|*])", r"\\\1", part))


def inline(self: nodes.NodeVisitor, node: nodes.math) -> None:
    """Write an inline equation."""
    self.body.append(convert(node.astext()))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def block(self: nodes.NodeVisitor, node: nodes.math_block) -> None:
    """Write a displayed equation."""
    # the theme scrolls wide equations, and would also scroll high ones
    style = "overflow-y: hidden; padding: 0.4rem 0"
    self.body.append(
        f'<div class="math" style="{style}">{convert(node.astext(), display="block")}</div>'
    )  # type: ignore[attr-defined]
    raise nodes.SkipNode


def write_pages(app: Sphinx) -> None:
    """Write the API's pages, those of `pages`, and the tutorial from its script."""
    rooms = [
        info.name
        for info in pkgutil.iter_modules(stepwise.__path__)
        if not info.name.startswith("_")
    ]
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for room in rooms:
        module = f"stepwise.{room}"
        _write(
            folder / f"{room}.rst", "\n".join([module, "=" * len(module), "", *_modules(module)])
        )
    order = [name for name in re.findall(r"`(\w+)`", stepwise.__doc__ or "") if name in rooms]
    listed = [*dict.fromkeys(order), *(room for room in rooms if room not in order)]
    intro = (
        "The modules in the order in which data flow through them. Docstrings have the formulas, "
        "shapes, units and references.\n"
    )
    tree = "\n".join(
        ["```{toctree}", ":maxdepth: 1", "", *(f"api/{room}" for room in listed), "```"]
    )
    _write(HERE / "api.md", f"# API\n\n{intro}\n{tree}\n")
    _write(HERE / "methods.md", pages.methods_page())
    _write(HERE / "laws.md", pages.laws_page())
    _write(HERE / "tutorial.md", tutorial((HERE / "tutorial.py").read_text(encoding="utf-8")))


def tutorial(script: str) -> str:
    """Convert a script in percent format to Markdown: comments to text, code to blocks."""
    cells = re.split(r"^# %%(.*)\n", script, flags=re.M)[1:]
    parts = []
    for kind, text in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", text.strip(), flags=re.M))
        elif "[hidden]" not in kind and text.strip():
            parts.append(f"```python\n{text.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _modules(name: str) -> list[str]:
    """Return the directives for a module, or for a package and then its modules."""
    package = importlib.import_module(name)
    offered = list(getattr(package, "__all__", []))
    directives = [f".. automodule:: {name}\n" + ("   :imported-members:\n" if offered else "")]
    for info in pkgutil.iter_modules(getattr(package, "__path__", [])):
        # a function may have the name of its module
        if info.name not in offered and not info.name.startswith("_"):
            directives.append(
                f".. automodule:: {name}.{info.name}\n   :exclude-members: {', '.join(offered)}\n"
            )
    return directives


def _write(path: Path, text: str) -> None:
    """Write a page only if it has changed, so that a second build does not parse it again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect the functions above; Sphinx calls this."""
    app.connect("autodoc-process-docstring", plain_marks, priority=100)
    app.connect("builder-inited", write_pages)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
