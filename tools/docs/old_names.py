"""What public names of the first drafts are called now, for programs that were written with them."""

# What is gone and what stands in its place. In backticks: a public name, or `name(arguments)` of it.
OLD_NAMES = (
    ("`AdamW`, `SGD`", "`KernelAdamW`, `KernelSGD`: Keras has optimizers of the old names"),
    (
        "`AdamW(decay)`, `SGD(decay)`, `LARS(decay)`",
        "`KernelAdamW(weight_decay)`, `KernelSGD(weight_decay)`, `LARS(weight_decay)`",
    ),
    ("`ExampleF1`, `MacroF1`, `MicroF1`", "`ExampleF1Score`, `MacroF1Score`, `MicroF1Score`"),
    ("`supervised_contrastive_loss`", "`losses_on_arrays` of `ContrastOfPositives`"),
    (
        "`weighted_contrastive_loss`, `uniform_label_weights`",
        "`losses_on_arrays` of `MulSupCon(average)`; of `KeysByDistribution`, where labels count by a weight",
    ),
    (
        "`contrastive_similarity_loss`, `rbf_similarity_loss`, `alignment_loss`, `label_weights`",
        "`losses_on_arrays` of `CLD` and `RLD`, whose formulas are the paper's",
    ),
    ("`judge_retrieval`", "`evaluate_embeddings`"),
    ("`MeanAveragePrecision(bins)`", "`MeanAveragePrecision(num_thresholds)`, as `keras.metrics.AUC` has it"),
    ("`DistributionHead`", "nothing: `ContrastivePretrainer` makes this layer"),
    (
        "`ContrastivePretrainer(temperature, alpha, beta, rbf_sigma, average)`",
        "arguments of `build_method`, whose result is `ContrastivePretrainer(method)`",
    ),
    (
        "`ContrastivePretrainer(rho, gamma, temperature_d, recovery_gradient, weigh_keys)`, and the flags of these names",
        "nothing: the published losses have no such settings",
    ),
)
