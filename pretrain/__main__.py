"""`python -m pretrain`: the recipe without the rest of the command line."""

import argparse

from pretrain import command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=command.__doc__, epilog=command.EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_arguments(parser)
    raise SystemExit(command.run(parser.parse_args()))
