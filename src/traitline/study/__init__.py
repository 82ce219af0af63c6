"""Studies: a YAML file in, a run directory out, resumable at any instruction."""

from traitline.study.config import StudyConfig, load_config, packaged_studies
from traitline.study.plan import Plan, make_plan, noise_key, row_key
from traitline.study.study import Study, run_status

__all__ = [
    "Plan",
    "Study",
    "StudyConfig",
    "load_config",
    "make_plan",
    "noise_key",
    "packaged_studies",
    "row_key",
    "run_status",
]
