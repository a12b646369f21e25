"""What fit does where data are images."""

from collections.abc import Sequence
from typing import Any

from pyro_vaes.commands.files import is_image
from pyro_vaes.errors import InputError


def with_shape(target: str, arguments: dict[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Give a target that asks for the shape of an image the data's own, and refuse another one.

    Args:
        target: a variant, or file.py:function. arguments: of it, as they were given. shape: of one datum.

    Raises:
        InputError: if a shape was given that is not the images'.

    >>> with_shape("crvae", {"blocks": 2}, (28, 20)), with_shape("vae", {}, (28, 20))
    ({'blocks': 2, 'shape': [28, 20]}, {})
    """
    import inspect

    from pyro_vaes.inference.run import target_function

    if not is_image(shape) or "shape" not in inspect.signature(target_function(target)).parameters:
        return arguments
    given = arguments.get("shape")
    # m2_vae has a shape for one of its two classifiers only.
    if given is None and arguments.get("classifier") != "mlp":
        return {**arguments, "shape": list(shape)}
    if given is None:
        return arguments
    # One channel may be named or not.
    same = isinstance(given, Sequence) and [n for n in given[:-2] if n != 1] == [n for n in shape[:-2] if n != 1]
    if not same or list(given[-2:]) != list(shape[-2:]):
        raise InputError(f"shape is {given}: the images are {list(shape)}, channels first; leave it out to take that")
    return arguments
