"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Say what was wrong with an input, where, and what is allowed.

    Every check of user input raises this and nothing else, before any work starts; the command line turns it
    into one line on stderr and exit code 2.

    >>> raise InputError("latent_dim is 0: it must be at least 1")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: latent_dim is 0: it must be at least 1
    """


def unknown(kind: str, name: str, known: "list[str] | tuple[str, ...]") -> InputError:
    """Build the error for an unknown name, with the nearest known one.

    >>> print(unknown("variant", "ic_vea", ["ic_vae", "vae"]))
    unknown variant 'ic_vea': did you mean 'ic_vae'? known: ic_vae, vae
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known)}")
