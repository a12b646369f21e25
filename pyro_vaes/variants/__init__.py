"""All variants on one page: each is a model p, a guide q and an objective.

Every function takes ``data_dim`` (d, entries per datum), ``latent_dim`` (k, entries of the code) and ``hidden`` (the
encoder's widths from x inwards; the decoder's are their mirror image), and gives a :class:`~pyro_vaes.pair.Pair`.
Its docstring is a card: p | q | objective | source. Data are pixels in [0, 1] unless the card says otherwise; where
there is an argument ``real``, True takes real numbers, with a mean mu(z) that is not squashed. S0 is
Wang, Dai, Hua, Aston & Wipf, "Recurrent Variational Autoencoders for Learning Nonlinear Generative Models in the
Presence of Outliers" (2018); S3 are tutorial slides on the theory of VAEs; S4 a course report on the classical ones.
A new variant touches three places: see CONTRIBUTING.md.
"""

from collections.abc import Callable

from pyro_vaes.errors import unknown
from pyro_vaes.pair import Pair
from pyro_vaes.variants.adversarial import crvae_gan, vae_gan
from pyro_vaes.variants.channel import bcvae, conv_vae, crvae, cvae_conv
from pyro_vaes.variants.classical import beta_vae, dvae, gamma_vae, gaussian_vae, iwae, l2_vae, lc_vae, vae
from pyro_vaes.variants.classifiers import ae_classifier, crvae_classifier, vae_classifier
from pyro_vaes.variants.conditional import cvae, structured_cvae
from pyro_vaes.variants.deep import cnn_vae, iwae_2, ladder_vae, memoriser, skip_vae
from pyro_vaes.variants.empirical import empirical_cvae
from pyro_vaes.variants.empirical import with_empirical_prior as with_empirical_prior
from pyro_vaes.variants.flexible import iaf_vae, mixture_vae, planar_vae, spline_vae, vamp_vae
from pyro_vaes.variants.generators import wae_gan, wae_mmd
from pyro_vaes.variants.identifiable import ica_vae
from pyro_vaes.variants.linear import affine_vae
from pyro_vaes.variants.robust import (
    affine_ic_vae,
    autoencoder,
    datum_t_vae,
    ic_vae,
    indexed_ic_vae,
    induced_ae,
    r_l2_vae,
    ric_vae,
    rlc_vae,
    rvae,
    t_vae,
)
from pyro_vaes.variants.semi_supervised import m2_vae
from pyro_vaes.variants.staged import two_stage_vae

VARIANTS: dict[str, Callable[..., Pair]] = {
    f.__name__: f
    for f in (
        vae, beta_vae, dvae, iwae, iwae_2, ladder_vae, skip_vae, cnn_vae, planar_vae, iaf_vae, spline_vae,
        mixture_vae, vamp_vae, cvae, structured_cvae, gaussian_vae, l2_vae, gamma_vae, lc_vae, memoriser,
        ic_vae, indexed_ic_vae, affine_ic_vae, t_vae, datum_t_vae, rvae, ric_vae, r_l2_vae, rlc_vae,
        autoencoder, induced_ae, wae_mmd, wae_gan, two_stage_vae, affine_vae, ica_vae, m2_vae,
        conv_vae, cvae_conv, bcvae, crvae, vae_gan, crvae_gan, empirical_cvae,
        ae_classifier, vae_classifier, crvae_classifier,
    )
}  # fmt: skip


def variant(name: str) -> Callable[..., Pair]:
    """Look a variant up by name.

    >>> variant("t_vea")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: unknown variant 't_vea': did you mean 't_vae'? known: vae, beta_vae, ...
    """
    if not isinstance(name, str) or name not in VARIANTS:
        raise unknown("variant", str(name), list(VARIANTS))
    return VARIANTS[name]
