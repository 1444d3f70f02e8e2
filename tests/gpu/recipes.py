"""How fast the networks of the recipes train, as each recipe asks for it: what a recipe costs."""

from __future__ import annotations

from pathlib import Path

from distlth.bench.step import MASK, Shape, bench
from distlth.config.read import load_config
from tests.gpu.lines import Options, check, main
from tests.gpu.throughput import free

RECIPES = Path(__file__).parent.parent.parent / "jobs" / "recipes"


def recipes(options: Options) -> None:
    """Time masked steps of each recipe's network, on images that are there."""
    shapes: dict[Shape, str] = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        config = load_config(path)
        train, batch = config.train, config.train.batch_size // config.cluster.workers
        model, resolution = config.model, config.data.resolution
        shape = Shape(model.name, resolution, batch, train.amp, options.device, model.stem, model.blurpool)
        shapes.setdefault(shape, path.stem)
    for shape, name in list(shapes.items())[: options.size(len(shapes), 1)]:
        with check(name) as said:
            rate = bench(shape=shape, rounds=options.size(4, 1), steps_per_round=8, kinds=(MASK,))
            said.append(
                f"{shape.model}, {shape.resolution} px, batch {shape.batch}, {shape.amp}: "
                f"{rate[0].images_per_second:,.0f} images/s"
            )
        free()


if __name__ == "__main__":
    main(recipes)
