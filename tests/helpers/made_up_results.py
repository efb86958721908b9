"""Rows of an experiment's results, made up."""


def scores_of(scores, *, dataset="d", protocol="validation", metric="mAP"):
    """Rows of made-up fine-tunings: values by method, one a seed."""
    return [
        {
            "dataset": dataset,
            "method": method,
            "seed": seed,
            "phase": "finetune",
            "protocol": protocol,
            "metric": metric,
            "value": value,
        }
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
