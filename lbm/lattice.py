"""The D2Q9 lattice as data: nine velocities, their weights, opposites and mirror images.

Lattice units throughout the package: cell size and tick are 1, the squared speed of sound is 1/3.
Population q moves by (CX[q], CY[q]) cells per tick::

    6 2 5
    3 0 1      x to the right, y upwards (row index)
    7 4 8
"""

import numpy as np

Q = 9
CX = np.array([0, 1, 0, -1, 0, 1, -1, -1, 1])
CY = np.array([0, 0, 1, 0, -1, 1, 1, -1, -1])
W = np.array([4 / 9] + [1 / 9] * 4 + [1 / 36] * 4)
OPPOSITE = np.array([0, 3, 4, 1, 2, 7, 8, 5, 6])  # -c_q
MIRROR_Y = np.array([0, 1, 4, 3, 2, 8, 7, 6, 5])  # (cx, -cy): reflection at a free-slip side
SOUND_SPEED_SQUARED = 1 / 3
SOUND_SPEED = SOUND_SPEED_SQUARED**0.5
