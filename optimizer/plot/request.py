"""What is asked of a plot, checked as far as that needs no model: this is told before anything large is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optimizer.errors import PlotError
from optimizer.plot.axes import Axis
from optimizer.plot.changes import suite_changes
from optimizer.plot.suites import most_images, setting_of, shown
from studies.spec.suite import SuiteSettings

Kind = Literal["plot", "permutations", "ablation"]
COUNTED = frozenset({"prompt", "seed", "size"})  # settings of whose values a suite has an image each
IMAGES_TO_COMPARE = 4  # of a cell of permutations and ablations, where the suite has as many


@dataclass(frozen=True, kw_only=True)
class PlotRequest:
    """What is asked of a plot.

    Raises:
        PlotError: parts of it exclude each other, or nothing varies.
    """

    kind: Kind
    x: Axis | None = None
    y: Axis | None = None
    z: Axis | None = None
    base: str | None = None  # None: the usual one
    images: int | None = None  # of each cell; None: the usual number
    sort: bool = False  # whether an ablation has the most different block first

    def __post_init__(self) -> None:
        given = self.x or self.y
        if self.kind != "plot" and given is not None:
            raise PlotError(
                f"--{_OPTIONS[self.kind]} has its own columns and rows: leave out {given.option}; --z may vary a "
                "setting of the suite, such as prompt"
            )
        if self.kind == "permutations" and self.base is not None:
            raise PlotError("--permute assigns whole parents and has no base: leave out --base")
        if self.sort and self.kind != "ablation":
            raise PlotError("--sort is for --ablate, whose blocks have a distance: leave it out")
        if self.kind == "plot" and not self.axes:
            raise PlotError(
                "nothing varies: give --x NAME=VALUES, such as --x text_encoder=0:1:5, or --permute, or --ablate"
            )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that are given."""
        return tuple(axis for axis in (self.x, self.y, self.z) if axis is not None)

    def check(self, suite: SuiteSettings) -> None:
        """Refuse what a suite cannot have.

        Raises:
            PlotError: a value of an axis, or the number of images.
        """
        for axis in self.axes:
            changes = suite_changes(axis, suite)
            if changes is None and axis is self.z and self.kind != "plot":
                raise PlotError(
                    f"--z: {axis.name} is no setting of the suite, and only these may vary here: use prompt"
                )
        images = self.image_count(suite)
        for cell_suite in self._suites(suite):
            shown(cell_suite, images)

    def _suites(self, suite: SuiteSettings) -> list[SuiteSettings]:
        """Return the suites that the axes make of one, as far as these change how many images there are."""
        suites = [suite]
        for axis in (self.z, self.y, self.x):
            if axis is not None and setting_of(axis.name) in COUNTED:
                changes = suite_changes(axis, suite) or ()
                suites = [change.suite_of(each) for each in suites for change in changes]
        return suites

    def image_count(self, suite: SuiteSettings) -> int:
        """Return the images of each cell: as asked for, else one, or up to 4 where pictures are compared.

        Raises:
            PlotError: the suite cannot have a value of z.
        """
        if self.images is not None:
            return self.images
        if self.kind == "plot":
            return 1
        changes = suite_changes(self.z, suite) if self.z is not None else None
        suites = [change.suite_of(suite) for change in changes or ()] or [suite]
        return min(IMAGES_TO_COMPARE, *map(most_images, suites))


_OPTIONS = {"permutations": "permute", "ablation": "ablate"}
