"""Loops: a client's training, evaluation, stage 1, and the rounds of stage 2 (read federated.py first)."""

from flash_pl.loops.captured import CapturedLoop
from flash_pl.loops.evaluation import EvaluationLoop, RoundEvaluator, Spread, tier_suffix
from flash_pl.loops.failures import Failure, Fault
from flash_pl.loops.federated import CohortResult, FederatedLoop
from flash_pl.loops.first_stage import FirstStageLoop
from flash_pl.loops.hooks import call_all_hooks, call_hooks
from flash_pl.loops.local import LocalLoop, check_transfer_hooks
from flash_pl.loops.rehearsal import Estimate, rehearse
from flash_pl.loops.settings import EvaluationSchedule, FaultPolicy, Participant, Plan, RoundDecay
from flash_pl.loops.state import (
    restore_state,
    restoring,
    save_state,
    server_model,
    start_state,
    stateful_parts,
    whole_state,
)
from flash_pl.loops.trial import try_model
from flash_pl.loops.workers import Workers

__all__ = [
    "CapturedLoop",
    "CohortResult",
    "Estimate",
    "EvaluationLoop",
    "EvaluationSchedule",
    "Failure",
    "Fault",
    "FaultPolicy",
    "FederatedLoop",
    "FirstStageLoop",
    "LocalLoop",
    "Participant",
    "Plan",
    "RoundDecay",
    "RoundEvaluator",
    "Spread",
    "Workers",
    "call_all_hooks",
    "call_hooks",
    "check_transfer_hooks",
    "rehearse",
    "restore_state",
    "restoring",
    "save_state",
    "server_model",
    "start_state",
    "stateful_parts",
    "tier_suffix",
    "try_model",
    "whole_state",
]
