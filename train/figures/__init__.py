"""All drawing with matplotlib.

As it is imported, matplotlib reads `matplotlibrc` in the current folder, which may be one that somebody else made: a pipe of this
name would be waited for, and `text.usetex` in it starts other programs. So it is imported in the root folder.
"""

import os
from contextlib import chdir

with chdir(os.sep):
    import matplotlib  # noqa: F401
