r"""Whether gradients pass through what the guide draws, and may be stopped at its parameters."""

__all__ = ["check_imputed", "check_pathwise", "check_scored", "check_stopped"]

from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pyro_vae.distributions import is_point
from pyro_vae.draws import Draw
from pyro_vae.layout import latent_sites, sample_sites
from pyro_vae.programs import modules


def check_pathwise(draw: Draw) -> None:
    r"""Raises unless every value that is drawn is a differentiable function of parameters.

    Raises:
        ValueError: If one is not: names the site.
    """
    for name, site in sample_sites(draw.guide_trace).items():
        if not site["fn"].has_rsample:
            family = type(site["fn"]).__name__
            raise ValueError(
                f"expected reparametrised guide sites, got {family} at {name!r}, through which no "
                "gradient passes: use ScoreFunction(), VIMCO() or ReweightedWakeSleep(), which "
                'need none, or mark the site infer={"enumerate": "parallel"} in the model and '
                "leave it out of the guide"
            )
    check_imputed(draw)


def check_scored(draw: Draw) -> None:
    r"""Raises unless every site of the guide has a density that may be differentiated alone.

    Raises:
        ValueError: If a site is a point or auxiliary, or if other sites depend on what an
            ``obs_mask`` leaves to the model: names the site.
    """
    for name, site in latent_sites(draw.guide_trace).items():
        if site["infer"].get("is_auxiliary") or is_point(site["fn"]):
            raise ValueError(
                f"expected a guide that draws the model's latents only, got {name!r}, a point or "
                "an auxiliary site, whose density cannot be differentiated apart from its value: "
                "use ELBO() or IWAE()"
            )
    check_imputed(draw)


def check_stopped(draw: Draw, gradient: str) -> None:
    r"""Raises where the guide's parameters cannot be stopped in its densities.

    Raises:
        ValueError: If a site is a function with parameters of an auxiliary one, or if the guide
            must run twice and draws anew there, as dropout does.
    """
    if draw.layout.moved:
        raise ValueError(
            f"expected guide sites whose density can be had without their parameters for "
            f"gradient={gradient!r}, got {sorted(draw.layout.moved)}, functions with parameters of "
            "auxiliary sites: use gradient='standard', or a TransformedDistribution"
        )
    if not draw.layout.chained:
        return
    for program in modules(draw.guide).values():
        for name, module in program.named_modules():
            if module.training and isinstance(module, (_DropoutNd, _BatchNorm)):
                raise ValueError(
                    f"expected a guide that is the same twice for gradient={gradient!r}, since "
                    f"{sorted(draw.layout.chained)} depend on earlier sites and it runs again, got "
                    f"{type(module).__name__} {name!r} in training mode: leave it out, put the "
                    "guide into eval() mode, or use gradient='standard'"
                )
    if draw.layout.varying:
        raise ValueError(
            f"expected a guide that is the same twice for gradient={gradient!r}, since "
            f"{sorted(draw.layout.chained)} depend on earlier sites and it runs again, got other "
            f"densities of the same values at {sorted(draw.layout.varying)}: switch dropout off "
            "(F.dropout, and that of recurrent layers, too), or use gradient='standard'"
        )


def check_imputed(draw: Draw) -> None:
    r"""Raises where the model draws what it depends on, and the gradient of that is lost.

    Raises:
        ValueError: If other sites depend on what an ``obs_mask`` leaves to the model, and it is
            not reparametrised: names the site.
    """
    imputed = latent_sites(draw.model_trace)
    for name in sorted(draw.layout.passed_on):
        fn, value = imputed[name]["fn"], imputed[name]["value"]
        # of a constant prior no gradient is lost
        if not fn.has_rsample and fn.log_prob(value).requires_grad:
            raise ValueError(
                f"expected reparametrised unobserved parts of obs_mask, got {type(fn).__name__} at "
                f"{name!r}, through which no gradient passes from the sites that depend on it: "
                'sum it out with pyro.infer.config_enumerate(model, "parallel"), since Pyro drops '
                "infer= where obs_mask is given, or draw it in the guide"
            )
