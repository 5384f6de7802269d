"""Ask numba for the widest vectors of the processor. For programs only: an import must not change a process' settings.

LLVM prefers 256-bit vectors on most processors that have 512-bit ones. Its target features are numba's global
`NUMBA_CPU_FEATURES`, read when numba is first imported; a program that is about to run the solver calls
`prefer_wide_vectors` before that.
"""

import os
import sys


def prefer_wide_vectors() -> bool:
    """Let numba compile for 512-bit vectors where the processor has them; True when it will.

    Does nothing (False) when numba is already imported, when the user has set NUMBA_CPU_NAME or
    NUMBA_CPU_FEATURES, or on a processor without AVX-512.
    """
    chosen = {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} & os.environ.keys()
    if "numba" in sys.modules or chosen:
        return False
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if not features.get("avx512f", False):
        return False
    os.environ["NUMBA_CPU_NAME"] = llvm.get_host_cpu_name()
    os.environ["NUMBA_CPU_FEATURES"] = f"{features.flatten()},-prefer-256-bit"
    return True
