"""`python -m pretrain`: the recipe without the rest of the command line."""

import argparse

from pretrain import recipe

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=recipe.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe.add_arguments(parser)
    raise SystemExit(recipe.run_recipe(parser.parse_args()))
