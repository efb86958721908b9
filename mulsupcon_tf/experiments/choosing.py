"""Settings that each method chooses for itself, by validation mAP and with the first seed, before all seeds are run.

A setting that one method was given and another was searched for, a learning rate above all, is worth more than what
methods differ by. So every line of a table gets the same search; no test label has a part in it.
"""

import dataclasses

from mulsupcon_tf.experiments.plan import Plan, Run, Trial, parse_grid, settings_read_by
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import is_finished
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError


def candidates(plan: Plan, text: str) -> Plan:
    """What has to be trained before a choice: the first seed's trials with every combination of the settings' values.

    Trials that read none of the settings are left out, and so is what judges a run.

    Args:
        plan: of the experiment.
        text: settings and their values, see `parse_grid`.

    Raises:
        InputError: the text is wrong, names a setting of the grid, a training has wrong settings, or a classifier would have
            no validation.
    """
    combinations = parse_grid(text, "--choose")
    varied = {name for trial in plan.trials for name, _ in trial.settings}
    twice = next((name for name in combinations[0] if name in varied), None)
    if twice is not None:
        raise InputError(f"--grid and --choose must name different settings. Received: {twice!r} in both")
    first = [trial for trial in plan.trials if trial.seed == plan.trials[0].seed]
    trials = [
        dataclasses.replace(trial, chosen=chosen)
        for trial in first
        for chosen in dict.fromkeys(settings_read_by(trial.method, each) for each in combinations)
        if chosen
    ]
    needed = dataclasses.replace(
        plan, trials=tuple(trials), linear_probe=plan.linear_probe and not plan.finetune, retrieval=False
    )
    needed.require_settings()
    for trial in trials:
        classifier = _classifier(needed, trial)
        if classifier.settings().validation_fraction == 0:
            raise InputError(
                "--choose goes by validation mAP, so --validation_fraction must be above 0. "
                f"Received: 0 for {classifier.title}"
            )
    return needed


def with_every_choice(plan: Plan, needed: Plan) -> Plan:
    """The plan with each trial as often as there are values that may be chosen for it, of one seed where there are some.

    Args:
        plan: of the experiment.
        needed: its `candidates`.
    """
    searched = {dataclasses.replace(trial, seed=0, chosen=()) for trial in needed.trials}
    others = (trial for trial in plan.trials if dataclasses.replace(trial, seed=0) not in searched)
    return dataclasses.replace(plan, trials=(*needed.trials, *others))


def with_choices(plan: Plan, needed: Plan) -> Plan:
    """The plan with the settings of the best validation mAP in every trial; of equal ones the first.

    Args:
        plan: of the experiment.
        needed: its `candidates`.

    Raises:
        InputError: a candidate is not finished, or see `is_finished`.
    """
    data = RunData()
    scores: dict[Trial, dict[tuple[tuple[str, str], ...], float]] = {}
    for trial in needed.trials:
        for run in needed.runs(trial):
            if not is_finished(run, data):
                raise InputError(f"--choose needs every candidate finished. Received: {run.directory}, which is not")
        classifier = RunDirectory(_classifier(needed, trial).directory)
        of_any_seed = dataclasses.replace(trial, seed=0, chosen=())
        scores.setdefault(of_any_seed, {})[trial.chosen] = classifier.read_summary()["val"]["mAP"]
    chosen = {trial: max(of_trial, key=of_trial.__getitem__) for trial, of_trial in scores.items()}
    trials = (
        dataclasses.replace(trial, chosen=chosen.get(dataclasses.replace(trial, seed=0), ())) for trial in plan.trials
    )
    return dataclasses.replace(plan, trials=tuple(trials))


def _classifier(needed: Plan, trial: Trial) -> Run:
    """The run by whose validation mAP a trial is chosen: its last, since nothing judges it by search."""
    return list(needed.runs(trial))[-1]
