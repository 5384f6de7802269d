"""The flow of `lbm.benchmark.channel` in other lattice-Boltzmann codes, each with its fastest documented options.

Every function makes a dict of runs, {name: Run}. Where a code has a choice, what was faster here is taken: lbmpy with
explicit AVX-512 kernels where the processor has it, the field size compiled in, boundary calls prepared once. Walls of
the peers lie half-way between cells and their outlets extrapolate; ours interpolates walls, absorbs sound at the
outlet and sums the force on the cylinder at every tick as well.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lbm.benchmark import side_by_side
from lbm.flow import FlowParameters, Simulation


@dataclass(frozen=True)
class Run:
    """advance(ticks), an even number; velocity() -> (2, ny, nx); cells that a tick updates."""

    advance: Callable[[int], object]
    velocity: Callable[[], np.ndarray]
    cells: int
    close: Callable[[], object] = lambda: None


def inflow(p: FlowParameters, y: Any) -> Any:
    """Parabolic velocity at a height y above the lower wall."""
    return 6 * p.inflow_velocity * y / p.ny * (1 - y / p.ny)


def start(p: FlowParameters) -> np.ndarray:
    """Velocity (2, ny, nx) at tick 0 of every code: the inflow everywhere, and a gust that starts the shedding soon."""
    x, y = np.arange(p.nx), np.arange(p.ny)[:, None]
    return np.stack([inflow(p, y + 0.5) + 0.0 * x, gust(p, x, y)])


def gust(p: FlowParameters, x: Any, y: Any) -> Any:
    """Transverse velocity at tick 0: 0.3 U one diameter behind the cylinder."""
    (cx, cy), d = p.obstacles[0].centre, p.obstacles[0].size
    return 0.3 * p.inflow_velocity * np.exp(-((x - cx - d) ** 2 + (y - cy) ** 2) / d**2)


def in_cylinder(p: FlowParameters, x: Any, y: Any) -> Any:
    """Whether the cell whose centre is (x, y) is solid; cell centres lie at whole numbers."""
    (cx, cy), radius = p.obstacles[0].centre, p.obstacles[0].size / 2
    return (x - cx) ** 2 + (y - cy) ** 2 < radius**2


def rate(viscosity: float) -> float:
    """Relaxation rate of a viscosity."""
    return 1 / (3 * viscosity + 0.5)


def ours(p: FlowParameters, threads: int) -> dict[str, Run]:
    """This project: one run, in bands of rows where there are several threads, and as many runs side by side."""

    def make(bands: int) -> Simulation:
        simulation = Simulation(p, threads=bands)
        simulation.set_flow(np.ones((p.ny, p.nx)), *start(p))
        return simulation

    def run(advance: Callable, simulation: Simulation, runs: int, close: Callable = lambda: None) -> Run:
        names = ("velocity_x", "velocity_y")
        return Run(advance, lambda: np.stack(list(simulation.fields(names).values())), runs * p.ny * p.nx, close)

    one = make(threads)
    if threads == 1:
        return {"ours": run(one.advance, one, 1)}
    several, pool = [make(1) for _ in range(threads)], ThreadPoolExecutor(threads)
    return {
        "ours, bands": run(one.advance, one, 1),
        "ours, runs": run(side_by_side(several, pool), several[0], threads, pool.shutdown),
    }


def lbmpy(p: FlowParameters, threads: int) -> dict[str, Run]:
    """lbmpy 2: two arrays (pull, its default) and in place (AA), OpenMP; with several threads also processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = {"lbmpy, two arrays": _lbmpy_pull(p, threads), "lbmpy, in place": _lbmpy_in_place(p, threads)}
    if threads > 1:
        runs["lbmpy, two arrays, processes"] = _processes(p, threads, "lbmpy, two arrays")
        runs["lbmpy, in place, processes"] = _processes(p, threads, "lbmpy, in place")
    return runs


def avx512() -> bool:
    """Whether the processor has AVX-512, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "avx512f" in cpu.read_text()


def _lbmpy_options(p: FlowParameters, threads: int):
    """Vector instructions, OpenMP and the collision: weighted orthogonal MRT, (shear, bulk, third, fourth) rates."""
    from lbmpy import LBMConfig, LBStencil, Method, Stencil
    from pystencils import CreateKernelConfig, Target

    kernel = CreateKernelConfig(target=Target.X86_AVX512 if avx512() else Target.X86_AVX, default_dtype=p.dtype)
    kernel.cpu.vectorize.enable = True
    kernel.cpu.vectorize.assume_inner_stride_one = True
    if threads > 1:
        kernel.cpu.openmp.enable = True
        kernel.cpu.openmp.num_threads = threads
    rates = [rate(p.viscosity), rate(p.bulk_viscosity), 1.0, 1.0]
    method = {"stencil": LBStencil(Stencil.D2Q9), "method": Method.MRT, "relaxation_rates": rates, "compressible": True}
    return kernel, lambda **more: LBMConfig(**method, **more)


def _lbmpy_boundaries(handling: Any, p: FlowParameters) -> None:
    from lbmpy.boundaries import UBB, NoSlip, SimpleExtrapolationOutflow
    from pystencils.slicing import slice_from_direction

    def profile(links: Any) -> None:
        links["vel_0"], links["vel_1"] = inflow(p, links.link_positions(1)), 0.0

    stencil, wall = handling._lb_method.stencil, NoSlip()
    inlet = UBB(profile, density=1.0, dim=2, data_type=p.dtype)
    handling.set_boundary(inlet, slice_from_direction("W", 2))
    handling.set_boundary(SimpleExtrapolationOutflow("E", stencil), slice_from_direction("E", 2))
    for side in "NS":
        handling.set_boundary(wall, slice_from_direction(side, 2))
    handling.set_boundary(wall, mask_callback=lambda x, y: in_cylinder(p, x - 0.5, y - 0.5))


def _lbmpy_pull(p: FlowParameters, threads: int) -> Run:
    """LatticeBoltzmannStep and its prepared loop of two time steps."""
    from lbmpy.lbstep import LatticeBoltzmannStep
    from pystencils import Target, create_data_handling
    from pystencils.timeloop import TimeLoop

    class Loop(TimeLoop):
        def post_run(self) -> None:  # else it computes the velocity after every run
            pass

    kernel, method = _lbmpy_options(p, threads)
    data = create_data_handling((p.nx, p.ny), periodicity=False, default_ghost_layers=1, default_target=Target.CPU)
    step = LatticeBoltzmannStep(
        data_handling=data, lbm_config=method(), config=kernel, timeloop_creation_function=Loop, name="pull"
    )
    _lbmpy_boundaries(step.boundary_handling, p)
    data.cpu_arrays[step.velocity_data_name][1:-1, 1:-1] = start(p).T
    step.set_pdf_fields_from_macroscopic_values()
    loop = step.get_time_loop()

    def velocity() -> np.ndarray:
        step.post_run()
        return np.moveaxis(data.cpu_arrays[step.velocity_data_name][1:-1, 1:-1], -1, 0).transpose(0, 2, 1)

    return Run(loop.run, velocity, p.ny * p.nx)


def _lbmpy_in_place(p: FlowParameters, threads: int) -> Run:
    """The AA pattern: an even and an odd kernel on one array."""
    from lbmpy import LBMOptimisation
    from lbmpy.advanced_streaming import Timestep
    from lbmpy.boundaries.boundaryhandling import LatticeBoltzmannBoundaryHandling
    from lbmpy.creationfunctions import create_lb_function
    from lbmpy.macroscopic_value_kernels import macroscopic_values_getter, macroscopic_values_setter
    from pystencils import CreateKernelConfig, Target, create_data_handling, create_kernel
    from pystencils.timeloop import TimeLoop

    kernel, method = _lbmpy_options(p, threads)
    data = create_data_handling((p.nx, p.ny), periodicity=False, default_ghost_layers=1, default_target=Target.CPU)
    dtype = np.dtype(p.dtype)
    field = data.add_array("f", values_per_cell=9, layout="fzyx", dtype=dtype, alignment=64)
    u = data.add_array("u", values_per_cell=2, layout="fzyx", dtype=dtype, alignment=64)
    array, times = data.cpu_arrays["f"], (Timestep.EVEN, Timestep.ODD)
    kernels = {
        time: create_lb_function(
            lbm_config=method(streaming_pattern="aa", timestep=time, field_name="f"),
            lbm_optimisation=LBMOptimisation(symbolic_field=field),
            config=kernel,
        )
        for time in times
    }
    collision = kernels[Timestep.EVEN].method
    handling = LatticeBoltzmannBoundaryHandling(
        collision, data, "f", streaming_pattern="aa", name="aa", target=Target.CPU, default_dtype=dtype
    )
    _lbmpy_boundaries(handling, p)
    plain = CreateKernelConfig(default_dtype=p.dtype)
    last = {"streaming_pattern": "aa", "previous_timestep": Timestep.EVEN}
    setter = macroscopic_values_setter(collision, 1.0, u.center_vector, field, **last)
    getter = macroscopic_values_getter(collision, None, u, field, **last)
    setter, getter = (create_kernel(rule, config=plain).compile() for rule in (setter, getter))
    data.cpu_arrays["u"][1:-1, 1:-1] = start(p).T
    setter(f=array, u=data.cpu_arrays["u"])
    handling.prepare()
    loop = TimeLoop()
    for before, now in ((Timestep.EVEN, Timestep.ODD), (Timestep.ODD, Timestep.EVEN)):
        for block in data.iterate():
            for wall, links in block[handling._index_array_name].boundary_object_to_index_list.items():
                boundary = handling._boundary_object_to_boundary_info[wall]._kernels[before]
                loop.add_call(boundary, {"f": array, "indexField": links})
        loop.add_call(kernels[now], {"f": array})

    def velocity() -> np.ndarray:
        getter(f=array, u=data.cpu_arrays["u"])
        return np.moveaxis(data.cpu_arrays["u"][1:-1, 1:-1], -1, 0).transpose(0, 2, 1)

    return Run(loop.run, velocity, p.ny * p.nx)


def _serve(p: FlowParameters, name: str, pipe: Any) -> None:
    run = lbmpy(p, 1)[name]
    pipe.send(None)
    while ticks := pipe.recv():
        run.advance(ticks)
        pipe.send(None)


def _processes(p: FlowParameters, count: int, name: str) -> Run:
    """As many independent lbmpy runs, each in its own process, since its kernels hold the interpreter's lock."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(count):
        here, there = context.Pipe()
        workers.append(context.Process(target=_serve, args=(p, name, there), daemon=True))
        workers[-1].start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()

    def advance(ticks: int) -> None:
        for pipe in pipes:
            pipe.send(ticks)
        for pipe in pipes:
            pipe.recv()

    def close() -> None:
        for pipe, worker in zip(pipes, workers, strict=True):
            pipe.send(0)
            worker.join()

    return Run(advance, lambda: np.full((2, p.ny, p.nx), np.nan), count * p.ny * p.nx, close)


def pylbm(p: FlowParameters, threads: int) -> dict[str, Run]:
    """pylbm: its Cython generator, double precision, one process."""
    if threads > 1 or p.dtype != "float64":
        return {}
    import pylbm as package
    import sympy as sp

    x, y, speed = sp.symbols("X, Y, LA")
    rho, qx, qy = sp.symbols("rho, qx, qy")
    r2 = x**2 + y**2
    shear, bulk = rate(p.viscosity), rate(p.bulk_viscosity)

    def let_in(f: Any, m: Any, x: Any, y: Any) -> None:
        m[rho], m[qx], m[qy] = 1.0, inflow(p, y + 0.5), 0.0

    (cx, cy), radius = p.obstacles[0].centre, p.obstacles[0].size / 2
    case = (
        {
            "box": {"x": [-0.5, p.nx - 0.5], "y": [-0.5, p.ny - 0.5], "label": [0, 2, 1, 1]},
            "elements": [package.Circle([cx, cy], radius, label=1)],
            "space_step": 1.0,
            "scheme_velocity": speed,
            "parameters": {speed: 1.0},
            "schemes": [
                {
                    "velocities": list(range(9)),
                    "conserved_moments": [rho, qx, qy],
                    "polynomials": [
                        1, x, y, 3 * r2 - 4, (9 * r2**2 - 21 * r2 + 8) / 2, 3 * x * r2 - 5 * x, 3 * y * r2 - 5 * y,
                        x**2 - y**2, x * y,
                    ],
                    "relaxation_parameters": [0, 0, 0, bulk, 1.0, 1.0, 1.0, shear, shear],
                    "equilibrium": [
                        rho, qx, qy, -2 * rho + 3 * (qx**2 + qy**2) / rho, rho - 3 * (qx**2 + qy**2) / rho, -qx, -qy,
                        (qx**2 - qy**2) / rho, qx * qy / rho,
                    ],
                }
            ],
            "init": {
                rho: 1.0,
                qx: (lambda x, y: inflow(p, y + 0.5) + 0 * x, ()),
                qy: (lambda x, y: gust(p, x, y), ()),
            },
            "boundary_conditions": {
                0: {"method": {0: package.bc.BouzidiBounceBack}, "value": let_in},
                1: {"method": {0: package.bc.BounceBack}},
                2: {"method": {0: package.bc.NeumannX}},
            },
            "generator": "cython",
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it builds an extension where it stands
        solver = package.Simulation(case)

    def advance(ticks: int) -> None:
        for _ in range(ticks):
            solver.one_time_step()

    def velocity() -> np.ndarray:
        density, fluid = solver.m[rho].T, ~in_cylinder(p, np.arange(p.nx), np.arange(p.ny)[:, None])
        return np.stack([np.divide(solver.m[q].T, density, where=fluid, out=np.zeros(fluid.shape)) for q in (qx, qy)])

    return {"pylbm": Run(advance, velocity, p.ny * p.nx)}


def xlb(p: FlowParameters, threads: int) -> dict[str, Run]:
    """XLB on JAX, BGK (it has no MRT), walls on cell centres; on all cores, since XLA has its own threads."""
    if threads == 1:
        return {}
    import jax
    import jax.numpy as jnp
    import xlb as package
    from xlb.compute_backend import ComputeBackend
    from xlb.grid import grid_factory
    from xlb.operator.boundary_condition import (
        ExtrapolationOutflowBC,
        FullwayBounceBackBC,
        HalfwayBounceBackBC,
        RegularizedBC,
    )
    from xlb.operator.equilibrium import QuadraticEquilibrium
    from xlb.operator.macroscopic import Macroscopic
    from xlb.operator.stepper import IncompressibleNavierStokesStepper
    from xlb.precision_policy import PrecisionPolicy

    jax.config.update("jax_enable_x64", p.dtype == "float64")
    policy, jx = (PrecisionPolicy.FP32FP32 if p.dtype == "float32" else PrecisionPolicy.FP64FP64), ComputeBackend.JAX
    lattice = package.velocity_set.D2Q9(precision_policy=policy, compute_backend=jx)
    package.init(velocity_set=lattice, default_backend=jx, default_precision_policy=policy)
    grid = grid_factory((p.nx, p.ny), compute_backend=jx)
    box, inner = grid.bounding_box_indices(), grid.bounding_box_indices(remove_edges=True)
    walls = np.unique(np.array([box["bottom"][i] + box["top"][i] for i in range(2)]), axis=-1).tolist()
    solid = in_cylinder(p, np.arange(p.nx)[:, None], np.arange(p.ny))

    def profile() -> Any:
        return jnp.stack([jnp.asarray(inflow(p, np.arange(p.ny) + 0.5)), jnp.zeros(p.ny)])

    def initial(*_: object) -> Any:
        dtype = policy.compute_precision.jax_dtype
        return QuadraticEquilibrium()(jnp.ones((1, p.nx, p.ny), dtype), jnp.asarray(start(p).transpose(0, 2, 1), dtype))

    conditions = [
        FullwayBounceBackBC(indices=walls),
        RegularizedBC("velocity", profile=profile, indices=inner["left"]),
        ExtrapolationOutflowBC(indices=inner["right"]),
        HalfwayBounceBackBC(indices=[i.tolist() for i in np.nonzero(solid)]),
    ]
    stepper = IncompressibleNavierStokesStepper(grid=grid, boundary_conditions=conditions, collision_type="BGK")
    *fields, kinds, missing = stepper.prepare_fields(initializer=initial)
    moments, omega = Macroscopic(), rate(p.viscosity)

    def advance(ticks: int) -> None:
        f, g = fields
        for tick in range(ticks):
            f, g = stepper(f, g, kinds, missing, omega, tick)
            f, g = g, f
        fields[:] = f, g
        f.block_until_ready()

    def velocity() -> np.ndarray:
        u = np.array(moments(fields[0])[1]).transpose(0, 2, 1)
        return np.where(solid.T, 0, u)

    return {"XLB": Run(advance, velocity, p.ny * p.nx)}


CODES: dict[str, Callable[[FlowParameters, int], dict[str, Run]]] = {"lbmpy": lbmpy, "pylbm": pylbm, "xlb": xlb}
