"""The loops: one client, an evaluation, stage 1, stage 2."""

from flash_pl.loops.base import Loop
from flash_pl.loops.clients import ClientEvaluationLoop
from flash_pl.loops.cohort import CohortLoop
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.faults import Failure, FaultPolicy
from flash_pl.loops.federated import FederatedLoop
from flash_pl.loops.federation import Federation
from flash_pl.loops.first_stage import FirstStageLoop
from flash_pl.loops.hooks import refuse_other_callbacks
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.module_hooks import refuse_transfer_hooks
from flash_pl.loops.plan import Member, Plan
from flash_pl.loops.schedule import EvaluationSchedule, RoundDecay
from flash_pl.loops.spread import Spread

__all__ = [
    "ClientEvaluationLoop",
    "CohortLoop",
    "EvaluationLoop",
    "EvaluationSchedule",
    "Failure",
    "FaultPolicy",
    "FederatedLoop",
    "Federation",
    "LocalLoop",
    "Loop",
    "Member",
    "Plan",
    "RoundDecay",
    "FirstStageLoop",
    "Spread",
    "refuse_other_callbacks",
    "refuse_transfer_hooks",
]
