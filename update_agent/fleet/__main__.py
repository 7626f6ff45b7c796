"""`python -m update_agent.fleet`."""

import sys

from update_agent.fleet.main import main

sys.exit(main())
