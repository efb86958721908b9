"""What the report takes from its runs; how it reads them is held by the tests of the report."""

from types import SimpleNamespace

from mulsupcon_tf.reporting.inputs import ReportInputs


def run_of(**epochs):
    return SimpleNamespace(summary=epochs)


def test_passes_over_the_training_data_are_those_of_earlier_runs_too():
    before = {"pretrain": run_of(epochs=2, epochs_before=30), "finetune": run_of(epochs=4), "bce": run_of(epochs=5)}
    assert ReportInputs.budgets.fget(SimpleNamespace(**before)) == (36, 5)
    assert ReportInputs.budgets.fget(SimpleNamespace(**before | {"bce": None})) is None
