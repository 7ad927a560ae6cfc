"""The documentation builds as a site, without a warning."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install 'mergetune[docs]'")
def test_the_site_builds_in_strict_mode_with_every_page_and_docstring(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    # MkDocs' plug-ins announce the future of MkDocs on stderr, each in its own way.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert pages >= {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    assert "report_name" in (tmp_path / "site" / "reference" / "python" / "scorers.html").read_text()
    assert 'class="mermaid"' in (tmp_path / "site" / "explanation" / "architecture.html").read_text()
