"""Lattice units: what turns physical numbers into relaxation rates, and back.

Viscosities follow the two-dimensional traceless convention (`design`: sigma = rho nu (d_a u_b + d_b u_a -
delta div u) + rho nu_b delta div u): nu = (1/s_v - 1/2)/3 and nu_b = (1/s_b - 1/2)/3, so that BGK has
nu_b = nu and a plane sound wave of wave number k decays as exp(-(nu + nu_b) k^2 t / 2). With Stokes'
three-dimensional convention the bulk viscosity is nu_b - nu/3.
"""

from lbm.lattice import SOUND_SPEED, SOUND_SPEED_SQUARED

COLLISIONS = ("mrt", "trt", "bgk", "regularised")
THIRD_RATE = 1.7  # s_q. Measured on wakes: 1.6 - 1.8 stay stable up to U / nu = 500 per cell for every bulk
# viscosity tried, while Lambda = 1/4, the optimum of linear theory, diverges above U / nu = 10.


def relaxation_time(viscosity: float) -> float:
    """Relaxation time tau = 1/s of a second moment, in ticks, for a shear or bulk viscosity."""
    return viscosity / SOUND_SPEED_SQUARED + 0.5


def viscosity_of(tau: float) -> float:
    """Shear or bulk viscosity of a relaxation time tau (ticks): the inverse of `relaxation_time`."""
    return (tau - 0.5) * SOUND_SPEED_SQUARED


def relaxation_rates(
    viscosity: float, bulk_viscosity: float, lambda_: float | None = None, collision: str = "mrt"
) -> tuple[float, float, float, float]:
    """Rates (shear s_v, bulk s_b, third order s_q, fourth order s_4) per tick of a choice of collision operator.

    ============  =====  =====  ==========================================  =====
    collision     s_v    s_b    s_q                                         s_4
    ============  =====  =====  ==========================================  =====
    mrt           nu     nu_b   `THIRD_RATE`, or from lambda_               1
    regularised   nu     nu_b   1                                           1
    trt           nu     s_v    from lambda_ (1/4 unless given)             s_v
    bgk           nu     s_v    s_v                                         s_v
    ============  =====  =====  ==========================================  =====

    lambda_ fixes s_q by (1/s_v - 1/2)(1/s_q - 1/2) = lambda_; 3/16 puts half-way walls exactly in their place
    (Ginzburg & d'Humieres 2003, doi:10.1103/PhysRevE.68.066614).
    """
    tau = relaxation_time(viscosity)
    shear, bulk = 1 / tau, 1 / relaxation_time(bulk_viscosity)
    if collision == "bgk":
        return shear, shear, shear, shear
    if collision == "regularised":
        return shear, bulk, 1.0, 1.0
    if collision == "trt":
        return shear, shear, _third_rate(0.25 if lambda_ is None else lambda_, tau), shear
    return shear, bulk, THIRD_RATE if lambda_ is None else _third_rate(lambda_, tau), 1.0


def _third_rate(lambda_: float, tau: float) -> float:
    return 1 / (0.5 + lambda_ / (tau - 0.5))


def reynolds(inflow_velocity: float, length: float, viscosity: float) -> float:
    """Reynolds number U L / nu."""
    return inflow_velocity * length / viscosity


def viscosity_for(reynolds_number: float, inflow_velocity: float, length: float) -> float:
    """Viscosity that gives a Reynolds number at inflow velocity U and length L."""
    return inflow_velocity * length / reynolds_number


def mach(velocity: float) -> float:
    """Mach number of a speed in cells per tick."""
    return velocity / SOUND_SPEED


def strouhal(reynolds_number: float) -> float:
    """Strouhal number f D / U of an unconfined circular cylinder, NaN below the onset of shedding.

    Williamson (1988), Phys. Fluids 31, 2742: St = -3.3265/Re + 0.1816 + 1.6e-4 Re for 49 < Re < 178. Above
    that the flow of a real cylinder is three-dimensional; two-dimensional simulations level off, so St is held
    between its value at 178 and 0.21.
    """
    if reynolds_number < 49:
        return float("nan")
    laminar = -3.3265 / reynolds_number + 0.1816 + 1.6e-4 * min(reynolds_number, 178)
    return min(laminar, 0.21)


def shedding_period(reynolds_number: float, inflow_velocity: float, diameter: float) -> float:
    """Estimated vortex shedding period of a cylinder in ticks (both vortices), NaN where nothing sheds."""
    return diameter / (strouhal(reynolds_number) * inflow_velocity)
