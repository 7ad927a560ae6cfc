"""How a page is made of templates: it needs nothing from elsewhere, and what people wrote is escaped and visible."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from basics.texts import visible

REPORT = "optimizer.report"  # whose look other pages share


def page_environment(package: str = REPORT) -> Environment:
    """Return where templates come from: a package's, and the report's."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, REPORT))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )


def source_of(environment: Environment, *names: str) -> Markup:
    """Return style sheets or scripts of ours as they are, one behind the other."""
    assert environment.loader is not None  # noqa: S101 - `page_environment` gives one
    texts = [environment.loader.get_source(environment, name)[0] for name in names]
    return Markup("".join(texts))  # noqa: S704 - our own files


def digest_of(script: str) -> str:
    """Return a script's sha256 in base64, by which a page's policy allows it and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def data_url(content: bytes, kind: str) -> str:
    """Return a picture as a URL that holds it.

    Args:
        kind: `png` or `jpeg`.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
