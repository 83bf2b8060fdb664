"""What each engine reads, as data: one row each with the engine, its version, the source, the family and the rule."""

from __future__ import annotations

from lowrise.engines.facts import llama_cpp, mlx, transformers4, transformers5, vllm
from lowrise.engines.facts.rows import Engine, Fact

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (transformers5.ENGINE, transformers4.ENGINE, vllm.ENGINE, llama_cpp.ENGINE, mlx.ENGINE)
}

__all__ = ["ENGINES", "Engine", "Fact"]
