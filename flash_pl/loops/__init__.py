"""The loops: one client, an evaluation, stage 1, stage 2."""

from flash_pl.loops.evaluation import ClientEvaluationLoop, EvaluationLoop, Spread
from flash_pl.loops.federated import FederatedLoop, Loop
from flash_pl.loops.federation import Federation
from flash_pl.loops.first_stage import FirstStageLoop
from flash_pl.loops.local import LocalLoop, refuse_transfer_hooks
from flash_pl.loops.settings import EvaluationSchedule, Participant, Plan, RoundDecay
from flash_pl.loops.workers import CohortLoop, Failure, FaultPolicy

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
    "Participant",
    "Plan",
    "RoundDecay",
    "FirstStageLoop",
    "Spread",
    "refuse_transfer_hooks",
]
