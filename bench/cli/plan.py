"""Say what would run, at what cost and for how long, without training."""

from __future__ import annotations

import argparse
import math
from typing import Any

from bench.cli.experiment_options import OVERRIDES, add_experiment, read_experiment, with_pictures, with_prompt_sets

EPILOG = f"""On the embedded base, what updates cost is computed, and time follows from a documented rate; --again
measures it. Another model that is here is measured for a few updates; what was measured is kept in
$BENCH_CACHE/plans (~/.cache/bench/plans). For one that is not, or with --gpu, the same is computed from its shapes,
and memory by part and disk beside it: nothing is downloaded, and no GPU is needed.

{OVERRIDES}

Examples:
  bench plan --preset scenes
  bench plan --preset sd35-medium --gpu h100,a100"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--gpu", metavar="A,B", help="hours and memory on these cards, computed: h100, a100, rtx4090, ..."
    )
    parser.add_argument(
        "--utilisation", type=_share, metavar="SHARE",
        help="of a card's peak that passes reach, where hours are computed and not measured (default 0.4)",
    )  # fmt: skip
    parser.add_argument(
        "--cards", type=_count, default=1, metavar="N", help="cards that train each cell together, with --gpu"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure now what is computed, or was measured for an earlier call"
    )
    add_experiment(parser)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Print what is measured, where the model is here, or else what is computed; returns 0."""
    cards = _cards(args.gpu)
    experiment = with_prompt_sets(read_experiment(args))
    from bench.hub import is_model_here

    if args.gpu is not None or experiment.weights == "random" or not is_model_here(experiment.model):
        return _forecast(experiment, args, cards)
    if args.utilisation is not None or args.cards != 1 or experiment.shard:
        from bench.api import ConfigError

        raise ConfigError(
            "--utilisation, --cards, --shard: this model is here and is measured, by one process: name a card by --gpu "
            "as well, and the same is computed"
        )
    experiment, _ = with_pictures(experiment)
    from bench.preflight.forecast.plan import measure_plan
    from bench.preflight.forecast.render import render_plan

    print(render_plan(experiment, measure_plan(experiment, args.results, again=args.again)))
    return 0


def _cards(names: str | None) -> list[Any]:
    """The cards of --gpu, or all; before the methods are imported, which takes seconds."""
    from bench.parsing import split_list
    from bench.preflight.forecast.cards import CARDS, card_named

    return [card_named(name) for name in split_list(names)] if names is not None else list(CARDS.values())


def _forecast(experiment: Any, args: argparse.Namespace, cards: list[Any]) -> int:
    from bench.hub import is_model_here
    from bench.preflight.forecast.forecast import UTILISATION, forecast_experiment
    from bench.preflight.forecast.render import render_forecast

    if experiment.data is not None and is_model_here(experiment.model):
        experiment, _ = with_pictures(experiment)
    elif experiment.world == "images":
        print("The user's pictures were not looked at: as many are assumed as the tasks take\nat most.\n")
    utilisation = args.utilisation or UTILISATION
    print(render_forecast(forecast_experiment(experiment, args.results, args.cards), cards, utilisation))
    return 0
