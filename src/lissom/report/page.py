"""Templates to pages: one style for all of them, and nothing from outside."""

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape


def render(template: str, **values: Any) -> str:
    r"""A page from one of the templates.

    Values are escaped. What goes into a script is JSON by `tojson`, which writes <, >, & and ' as
    \u003c, … and so cannot end the script.

    Raises:
        ValueError: if NaN or an infinity is to become JSON, which has none.
    """
    environment = Environment(
        loader=PackageLoader("lissom.report"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(template).render(**values)
