"""How far rounding to a layer's grid moves its weights, from the definition in `network.on_weight_grid` alone."""

import numpy as np
import numpy.typing as npt


def half_a_unit(weights: npt.NDArray[np.float64], limit: float) -> float:
    """At most this for each weight.

    limit: of the layer's inputs. The grid leaves 2⁻¹⁰ for the inputs, a bit for rounding the weights up and one for
    the sign; with the largest sum of a column's magnitudes s, its unit is at most 2⁻⁴⁰·max(limit, 1)·s.
    """
    reach = max(float(np.abs(weights).sum(axis=0).max()), 2.0**-20)
    return 2.0**-41 * max(limit, 1.0) * reach
