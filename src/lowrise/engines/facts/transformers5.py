"""transformers 5, which lowrise works with: every output is proven by reloading it there."""

from __future__ import annotations

from lowrise.engines.facts.rows import Engine

ENGINE = Engine(
    name="transformers",
    title="transformers 5",
    version="5.23.0",
    obtained="PyPI transformers 5.23.0",
    facts=(),
    opens_own_code=True,
    reference=True,
)
