"""All drawing with matplotlib.

As it is imported, matplotlib reads `matplotlibrc` in the current folder, which may be one that somebody else made: a pipe of this
name would be waited for, and `text.usetex` in it starts other programs. So it is imported in the root folder.

The first time on a machine it says that it has listed the fonts, which nobody has asked for.
"""

import logging
import os
from contextlib import chdir

logging.getLogger("matplotlib").setLevel(logging.WARNING)
with chdir(os.sep):
    import matplotlib  # noqa: F401
