"""Control: training goes on as it was, without any selection of data."""

from __future__ import annotations

from typing import ClassVar

from bench.api import Needs
from methods.sft import SFT

__all__ = ["Continued"]


class Continued(SFT):
    """SFT on all candidates of the task, whatever it selects: what more training gives by itself.

    What SFT has beyond it is owed to the choice of the data. The loss and the random numbers are those of SFT; where a
    task selects nothing, the two are one.
    """

    name: ClassVar[str] = "continued"
    paper: ClassVar[str] = "none: a control of SFT"
    needs: ClassVar[Needs] = Needs(data=True, unselected=True)
