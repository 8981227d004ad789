"""How both servers set their Python up."""

import gc

_YOUNG_OBJECTS = 20_000


def calm_the_collector() -> None:
    """Call once everything is imported. What lives then lives for ever and is not looked at again;
    for the rest, reference counts do nearly all, and at the default of 700 young objects the
    search for cycles took 7 % of the time of small requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
