"""One self-contained HTML file from a template and charts: nothing is fetched, nothing runs that is not ours.

Everything that comes from a user (names, text that models wrote) is escaped by jinja2. The content security policy
allows the two scripts of the page by their hashes and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from lowrise.report import words
from lowrise.report.charts import Chart
from lowrise.report.page_charts import bokeh_script, chart_item

if TYPE_CHECKING:
    from jinja2 import Environment

_DRAW = """
(() => {
  const items = JSON.parse(document.getElementById("charts").textContent);
  const draw = () => {
    for (const item of items) {
      const place = document.getElementById(item.target_id);
      place.classList.remove("drawn");
      place.replaceChildren();
      Bokeh.embed.embed_item(item).then(() => place.classList.add("drawn"));
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""


def render_page(template: str, *, title: str, charts: Mapping[str, Chart] | None = None, **values: Any) -> str:
    """The page that `templates/TEMPLATE` (an extension of base.html) makes of `values`.

    In the template a chart is placed by `{{ chart(charts.NAME) }}` after `{% from "parts.html" import chart %}`: each
    of `charts` must be. A page without any carries no script.
    """
    from markupsafe import Markup

    scripts = [bokeh_script(), _DRAW] if charts else []
    found = _environment().get_template(template)
    page = found.render(
        title=title,
        charts=charts or {},
        chart_items=[chart_item(chart) for chart in (charts or {}).values()],
        scripts=[Markup(script) for script in scripts],
        script_hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'",
        **values,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name may hold what is no text


def render(template: str, **values: Any) -> str:
    """A part of a page, from `templates/TEMPLATE`, for whoever shows it."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    """jinja2 with the templates, each of which it compiles once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("lowrise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False}  # bokeh defines a thing before it names it again
    made.filters.update(words.FILTERS)
    made.filters["scoped"] = _scoped
    return made


def _scoped(css: str, scope: str) -> str:
    """Each rule of a line of CSS for what lies in `scope` alone; rules hold no braces within."""
    return re.sub(r"(^|} )(?=\.)", rf"\1{scope}", css)


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
