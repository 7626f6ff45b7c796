"""Write the programs of the installed package: as pip does, but for an interpreter that is at its place only later.

make_launchers.py INTERPRETER FOLDER
"""

import sys
from importlib.metadata import distribution
from pathlib import Path

TEXT = """\
#!{interpreter} -I
import sys

from {module} import {function}

sys.exit({function}())
"""

interpreter, folder = sys.argv[1:]
for entry in distribution("update-agent").entry_points.select(group="console_scripts"):
    module, _, function = entry.value.partition(":")
    path = Path(folder, entry.name)
    path.write_text(TEXT.format(interpreter=interpreter, module=module, function=function))
    path.chmod(0o755)
