"""lowrise in Python: what the command does, on models in memory. `import lowrise` has all of these names.

models.py    open, wrap, Model                calibrating.py  calibrate, tokens
planning.py  plan, apply                      measuring.py    measure
healing.py   heal                             exporting.py   export
runs.py      run, compare                     pushing.py      push
../engines   check                            progress.py     what is seen of long work
estimating.py  estimate
stages.py    the pipeline's functions, called in one place
"""

from lowrise.api.calibrating import calibrate, tokens
from lowrise.api.estimating import estimate
from lowrise.api.exporting import export
from lowrise.api.healing import heal
from lowrise.api.measuring import measure
from lowrise.api.models import Model, open, wrap
from lowrise.api.planning import apply, plan
from lowrise.api.progress import Event, LowriseWarning
from lowrise.api.pushing import push
from lowrise.api.runs import compare, run
from lowrise.engines import check

__all__ = [
    "Event",
    "LowriseWarning",
    "Model",
    "apply",
    "calibrate",
    "check",
    "compare",
    "estimate",
    "export",
    "heal",
    "measure",
    "open",
    "plan",
    "push",
    "run",
    "tokens",
    "wrap",
]
