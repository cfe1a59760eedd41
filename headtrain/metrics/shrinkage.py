"""How far an estimated covariance is shrunk towards a multiple of the identity."""


def oas_share(squares: float, trace: float, width: int, count: int) -> float:
    """Return the share of the identity in a second moment [width, width] of `count` draws.

    `squares` is the sum of its squared entries. It is the oracle approximating shrinkage for
    Gaussian draws: Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for MMSE Covariance
    Estimation" (2010), equation 23.
    """
    spread = squares - trace**2 / width
    if spread <= 1e-12 * squares:  # a multiple of the identity already
        return 1.0
    share = ((1 - 2 / width) * squares + trace**2) / ((count + 1 - 2 / width) * spread)
    return min(1.0, share)
