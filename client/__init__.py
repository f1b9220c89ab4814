"""Floor 3, the partner: node, gate, and what the gate keeps. Never imports ``server``.

polars writes what it cannot hold into ``/var/tmp/polars-USER``, in the clear; it is told, before anything
loads it, that it may not (its query ends with an error instead: the gate's rule 6).
"""

import os

os.environ["POLARS_OOC_DISK_BUDGET_MB"] = "0"
