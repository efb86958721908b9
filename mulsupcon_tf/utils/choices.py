"""What may be chosen by name, and the defaults of methods: what a flag and the class behind it share."""

# "module:name" below mulsupcon_tf.losses: a `Method`, or a function of labels for `ContrastOfPositives`.
METHODS = {
    "cld": "mulsupconld:CLD",
    "rld": "mulsupconld:RLD",
    "mulsupcon": "mulsupcon:MulSupCon",
    "any": "positives:any_positives",
    "all": "positives:all_positives",
    "jaccard": "positives:jaccard_positives",
    "self": "positives:OwnKey",
    "truth": "mulsupconld:KeysByDistribution",
}
DISTRIBUTION_METHODS = ("cld", "rld")  # learn label distributions
TRUE_DISTRIBUTION_METHODS = ("truth",)  # take the true ones, which the data must have
UNSUPERVISED_METHODS = ("self",)  # read no labels
SHARING_METHODS = ("mulsupcon", "any", "self")  # ask at most which labels two samples share: some may be unknown
# Settings that only some methods read.
READ_BY = dict.fromkeys(("alpha", "beta", "own_distribution"), DISTRIBUTION_METHODS) | {
    "cld_kernel": ("cld",),
    "rbf_sigma": ("rld",),
    "average": ("mulsupcon",),
}
CLD_KERNELS = ("softmax", "negative", "printed")
OWN_DISTRIBUTIONS = ("constant", "live")
AVERAGES = ("pair", "anchor")
AUGMENTATIONS = ("mask", "crop", "simple", "simclr")
OPTIMIZERS = ("adamw", "sgd", "lars")
SCHEDULES = ("cosine", "restarts")
PRECISIONS = ("none", "bfloat16", "float16")
STRATEGIES = ("none", "mirrored", "multiworker")
SPLITS = ("train", "validation", "test")
REPRESENTATIONS = ("embedding", "features", "probabilities", "raw")
SEARCHED_BY = ("embedding", "features", "probabilities")
EXPORT_FORMATS = ("saved_model", "onnx", "litert")
QUANTISATIONS = ("float16", "int8")  # of LiteRT
PREDICTION_FORMATS = ("jsonl", "csv")
HEADS = ("reuse", "fresh")
SELECTIONS = ("mAP", "loss", "last")
LOSSES = {
    "bce": "binary cross-entropy",
    "asl": "asymmetric loss",
    "two_way": "two-way loss",
    "zlpr": "zero-bounded loss (ZLPR)",
}
DEFAULT_LOSS = "bce"
CALIBRATIONS = ("temperature", "none")
CLASS_WEIGHTS = ("none", "balanced")
WEIGHTED_LOSSES = ("bce", "asl")  # whose labels have a loss each

TEMPERATURE = 0.1
ALPHA, BETA = 1.0, 1e-3
RBF_SIGMA = 0.01
MOMENTUM = 0.999
SEARCHED_NEIGHBOURS = 10  # that a search is judged by
