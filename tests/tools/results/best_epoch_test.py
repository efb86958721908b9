from mulsupcon_tf.evaluation.results import METRIC_NAMES
from tools.results import best_epoch


def test_each_metric_has_its_own_best_epoch_and_all_have_one_last():
    epochs = [{"mAP": 0.3, "micro_f1": 0.7}, {"mAP": 0.5, "micro_f1": 0.6}, {"mAP": 0.4, "micro_f1": 0.5}]
    assert best_epoch.best(epochs) == {"mAP": 0.5, "micro_f1": 0.7}
    assert best_epoch.last(epochs) == {"mAP": 0.4, "micro_f1": 0.5}


def test_the_table_is_of_all_of_train_judged_on_test_after_each_epoch(shared_data, capsys):
    settings = best_epoch.BestEpochConfig(
        data_dir=str(shared_data / "mulan"), datasets="scene", seeds="0", epochs=3, batch_size=64
    )
    best_epoch.main(settings)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"| set | epoch | {' | '.join(METRIC_NAMES)} |"
    last, best = ([float(cell) for cell in row.strip("| ").split(" | ")[2:]] for row in rows)
    assert last[0] > 60, "it learns: guesses reach the share of positives, 18%"
    assert all(high >= low for low, high in zip(last, best, strict=True)) and len(last) == len(METRIC_NAMES)
