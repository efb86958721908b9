"""MulSupConLD as published: keys count by label distributions, which are recovered by an RBF kernel or by contrast.

Notation and numbers of equations are those of [1]. With C²_ip = log softmax_p(z_i·k_p / τ), the log-softmax over the keys:

    (12)  L_i = −Σ_{j∈y_i} Σ_{p∈P_j(i)} d_p^j y_p^j C²_ip + L_ld,i
    (9)   L_ld,i = G_i + α H_i + β ‖W‖²
    (7)   G_i = Σ_{p∈P(i)} C_ip ‖d_i − d_p‖²
    (8)   H_i = Σ_{p∈P(i)} ‖y_p − d_p‖²

P(i) are the keys that share a label with anchor i, the own key among them; C is (6) for RLD, made of (10) for CLD. What is
returned is the mean over the anchors where (14, 15) have the sum; an optimizer that scales gradients, as Adam does, sees no
difference.

References:
    [1] Chen et al., Improving Multi-Label Contrastive Learning by Leveraging Label Distribution, arXiv 2501.19145v1.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mulsupcon_tf.losses.keys import (
    Anchors,
    FurtherSums,
    KeyBlock,
    Sum,
    ceiling_of_cosines,
    logits_of,
    softmax_mean,
    weighted_contrast,
    with_gradients,
)
from mulsupcon_tf.losses.method import Counts, Method
from mulsupcon_tf.losses.sharing_keys import SharingKeys, sides_of, similarity_of
from mulsupcon_tf.utils.choices import ALPHA, BETA, CLD_KERNELS, OWN_DISTRIBUTIONS, RBF_SIGMA, TEMPERATURE
from mulsupcon_tf.utils.tensors import require_choice, require_not_negative, require_positive


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KeysByDistribution(Method):
    """The first term of (12): a key counts by the mass that its distribution puts on the labels it shares.

    As it stands it is the method `truth`, a control: the true distributions in place of recovered ones.

    Args:
        temperature: τ > 0.

    Raises:
        InputError: the temperature is not above 0, or not finite.
    """

    takes_true_distributions = True

    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """Softmax mean of the keys, and by label how much of it they carry together: S `[C]` and M `[C, D]`."""
        scaled = ops.stop_gradient(anchors.embeddings) / self.temperature
        ceiling = ceiling_of_cosines(self.temperature)

        def of_block(block: KeyBlock) -> dict[str, Any]:
            return self._contrast(logits_of(scaled, block, ceiling), block, ceiling)

        return of_block

    @staticmethod
    def _contrast(logits, block: KeyBlock, ceiling: float, further_sums: FurtherSums | None = None) -> dict[str, Any]:
        carried = ops.transpose(block.labels * block.distributions)
        return {
            "contrast": softmax_mean(logits, block.embeddings, ceiling=ceiling, further_sums=further_sums),
            "carried": Sum(ops.sum(carried, axis=-1)),
            "carriers": Sum(ops.matmul(carried, block.embeddings)),
        }

    def contrast(self, anchors: Anchors, gathered: dict[str, Any]):
        """The first term of (12) `[N]`, −Σ_p a_ip C²_ip with a_ip = Σ_j y_i^j y_p^j d_p^j.

        It is lse_i (y_i·S) − z_i·(y_i M) / τ, since each label's keys are added up once for all anchors.

        Args:
            anchors: N anchors.
            gathered: `of_keys` of all keys.

        Returns:
            `[N]` float32, not yet averaged.
        """
        mass = ops.matmul(anchors.labels, gathered["carried"].total[:, None])[:, 0]
        attraction = ops.matmul(anchors.labels, gathered["carriers"].total)
        return weighted_contrast(anchors.embeddings, gathered["contrast"], mass, attraction, self.temperature)

    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """The first term of (12) as "loss" and "contrastive_loss"."""
        loss = ops.sum(self.contrast(anchors, gathered)) / whole.samples
        return {"loss": loss, "contrastive_loss": loss}

    def positives_per_anchor(self, gathered: dict[str, Any], whole: Counts):
        """Mean of Σ_p a_ip."""
        return ops.stop_gradient(ops.sum(whole.by_label * gathered["carried"].total) / whole.samples)


class _WithRecovery(KeysByDistribution):
    """What RLD and CLD share: (12) with its recovery (9), of which they differ in the kernel of (7).

    Args:
        temperature: τ > 0.
        alpha: α >= 0, weight of H.
        beta: β >= 0, weight of ‖W‖².
        own_distribution: whether the d_i that the own key carries in (12) is "live", as Algorithm 1 of [1] reads, or a
            "constant", as those of all other keys are. Live, (12) takes mass off the anchor's own labels.
    """

    takes_true_distributions = False
    learns_distributions = True
    parts = ("similarity_loss", "alignment_loss", "recovery_loss")

    def __init__(
        self,
        *,
        temperature: float = TEMPERATURE,
        alpha: float = ALPHA,
        beta: float = BETA,
        own_distribution: str = OWN_DISTRIBUTIONS[0],
    ):
        super().__init__(temperature=temperature)
        require_not_negative(alpha=alpha, beta=beta)
        require_choice(OWN_DISTRIBUTIONS, own_distribution=own_distribution)
        self.alpha, self.beta, self.own_distribution = alpha, beta, own_distribution

    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """What (12) needs, and what (7) and (8) add up over the keys that share a label."""
        scaled = ops.stop_gradient(anchors.embeddings) / self.temperature
        sides = sides_of(ops.stop_gradient(anchors.distributions))
        ceiling = ceiling_of_cosines(self.temperature)

        def of_block(block: KeyBlock) -> dict[str, Any]:
            sharing = SharingKeys.of(anchors.labels, sides, block)
            misplaced = ops.sum(ops.square(block.labels - block.distributions), axis=-1, keepdims=True)
            alignment = Sum(ops.matmul(sharing.sharing, misplaced)[:, 0])
            return {"alignment": alignment} | self._of_pairs(logits_of(scaled, block, ceiling), sharing, block, ceiling)

        return of_block

    def _of_pairs(self, logits, sharing: SharingKeys, block: KeyBlock, ceiling: float) -> dict[str, Any]:
        """What `contrast` and `_similarity` read of some keys.

        Args:
            logits: `[B, N]`, see `logits_of`.
            sharing: which of the keys share a label.
            block: N keys.
            ceiling: by which the logits were lowered.
        """
        raise NotImplementedError

    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """(12) as "loss", its first term as "contrastive_loss", (7) and (8) as "similarity_loss" and "alignment_loss"."""
        labels, distributions = anchors.labels, anchors.distributions
        contrast = self.contrast(anchors, gathered)
        if self.own_distribution == "live":
            own_mass = ops.sum(labels * distributions, axis=-1)
            logits = ops.sum(anchors.embeddings * anchors.own_keys, axis=-1) / self.temperature
            own = ops.stop_gradient(logits) - gathered["contrast"].logsumexp
            contrast = contrast - (own_mass - ops.stop_gradient(own_mass)) * own  # 0, but not its gradient
        similarity = self._similarity(anchors, gathered)
        labelled = ops.cast(ops.any(labels > 0, axis=-1), labels.dtype)
        own_alignment = labelled * ops.sum(ops.square(labels - distributions), axis=-1)
        # The keys' distributions are constants but for the anchor's own, which is its d.
        alignment = gathered["alignment"].total + own_alignment - ops.stop_gradient(own_alignment)
        sums = {"contrastive_loss": contrast, "similarity_loss": similarity, "alignment_loss": alignment}
        found = {name: ops.sum(each) / whole.samples for name, each in sums.items()}
        share = ops.cast(ops.shape(labels)[0], labels.dtype) / whole.samples
        penalty = 0.0 if anchors.kernel is None else ops.sum(ops.square(ops.cast(anchors.kernel, labels.dtype))) * share
        recovery = found["similarity_loss"] + self.alpha * found["alignment_loss"] + self.beta * penalty
        return found | {"recovery_loss": recovery, "loss": found["contrastive_loss"] + recovery}

    def _similarity(self, anchors: Anchors, gathered: dict[str, Any]):
        """(7), G `[N]`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {"alpha": self.alpha, "beta": self.beta, "own_distribution": self.own_distribution}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class RLD(_WithRecovery):
    """MulSupConLD [1, eq. 12] with the RBF kernel (6), C¹_ip = exp(−‖z_i − k_p‖² / 2σ²), not normalised: method `rld`.

    At the published σ = 0.01 the kernel is 0 in float32 between unit vectors of a cosine below 0.9896, and the own key is
    at distance 0, so G vanishes and αH and β‖W‖² are left.

    Args:
        rbf_sigma: σ > 0.
        **settings: `temperature`, `alpha`, `beta` and `own_distribution`, as of `CLD`.

    Raises:
        InputError: a number is out of range, or `own_distribution` has another name.
    """

    def __init__(self, *, rbf_sigma: float = RBF_SIGMA, **settings):
        super().__init__(**settings)
        require_positive(rbf_sigma=rbf_sigma)
        self.rbf_sigma = rbf_sigma

    def _of_pairs(self, logits, sharing: SharingKeys, block: KeyBlock, ceiling: float) -> dict[str, Any]:
        """What (12) needs, and sums over the keys by weight C¹."""
        # Between unit vectors −‖z − k‖² / 2σ² is (z·k − 1) / σ².
        kernel = ops.exp(((logits + ceiling) * self.temperature - 1.0) / self.rbf_sigma**2)
        near = ops.concatenate(sharing.sums(kernel, block), axis=-1)
        return self._contrast(logits, block, ceiling) | {"near": Sum(near)}

    def _similarity(self, anchors: Anchors, gathered: dict[str, Any]):
        sums, keys = ops.split(gathered["near"].total, (2 + anchors.distributions.shape[-1],), axis=-1)
        value, by_distribution = similarity_of(sums, anchors.distributions)
        by_embedding = (keys - value * anchors.embeddings) / self.rbf_sigma**2
        return with_gradients(value[:, 0], (anchors.embeddings, by_embedding), (anchors.distributions, by_distribution))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().get_config() | {"rbf_sigma": self.rbf_sigma}


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class CLD(_WithRecovery):
    """MulSupConLD [1, eq. 12] with a kernel made of the contrastive term (10): method `cld`.

    (10) is never positive, so that minimising (7) as printed drives distributions apart without bound. The kernel is

    - "softmax": exp C²_ip, between 0 and 1 and large for near keys, as the kernel of RLD is;
    - "negative": −C²_ip, what code in the style of SupCon computes; it is largest for the keys that are *farthest*, and
      many positives then draw all distributions into one;
    - "printed": C²_ip.

    Args:
        cld_kernel: "softmax", "negative" or "printed".
        **settings: `temperature`, τ > 0; `alpha`, α >= 0, weight of H (8); `beta`, β >= 0, weight of ‖W‖² (9);
            `own_distribution`, "live" or "constant": whether (12) has a gradient with respect to the d_i of the own key.

    Raises:
        InputError: a number is out of range, or the kernel or `own_distribution` has another name.
    """

    def __init__(self, *, cld_kernel: str = CLD_KERNELS[0], **settings):
        super().__init__(**settings)
        require_choice(CLD_KERNELS, cld_kernel=cld_kernel)
        self.cld_kernel = cld_kernel

    def _of_pairs(self, logits, sharing: SharingKeys, block: KeyBlock, ceiling: float) -> dict[str, Any]:
        """What (12) needs, and means over the keys by weight exp C², or sums by weight C²."""
        if self.cld_kernel == "softmax":
            return self._contrast(logits, block, ceiling, lambda odds: sharing.sums(odds, block))
        distances = sharing.sharing * sharing.distances
        sums = [
            ops.sum(distances, axis=-1, keepdims=True),
            ops.sum(distances * logits, axis=-1, keepdims=True),
            ops.matmul(distances, block.embeddings),
            ops.matmul(sharing.sharing, sharing.values),
            ops.matmul(sharing.sharing * logits, sharing.values),
        ]
        return self._contrast(logits, block, ceiling) | {"similar": Sum(ops.concatenate(sums, axis=-1))}

    def _similarity(self, anchors: Anchors, gathered: dict[str, Any]):
        embeddings, distributions = anchors.embeddings, anchors.distributions
        width, size = embeddings.shape[-1], distributions.shape[-1] + 2
        contrast = gathered["contrast"]
        mean_key = contrast.mean[:, :width]
        if self.cld_kernel == "softmax":
            sums, keys = ops.split(contrast.mean[:, width:], (size,), axis=-1)
            value, by_distribution = similarity_of(sums, distributions)
            by_embedding = (keys - value * mean_key) / self.temperature
        else:
            distance, by_logit, keys, number, number_by_logit = ops.split(
                gathered["similar"].total, (1, 2, 2 + width, 2 + width + size), axis=-1
            )
            # The logits were lowered, and so is what they are compared with.
            normaliser = (contrast.logsumexp - ceiling_of_cosines(self.temperature))[:, None]
            sign = 1.0 if self.cld_kernel == "printed" else -1.0
            # The value not as above: by weights of both signs little is left of large sums.
            value = sign * (by_logit - normaliser * distance)
            _, by_distribution = similarity_of(sign * (number_by_logit - normaliser * number), distributions)
            by_embedding = sign * (keys - distance * mean_key) / self.temperature
        return with_gradients(value[:, 0], (embeddings, by_embedding), (distributions, by_distribution))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().get_config() | {"cld_kernel": self.cld_kernel}
