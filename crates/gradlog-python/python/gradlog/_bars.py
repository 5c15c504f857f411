"""A progress bar, if tqdm is installed."""

import warnings


def open_bar(total):
    """A bar for ``total`` bytes, or None. tqdm draws it in a notebook, and on a terminal."""
    try:
        with warnings.catch_warnings():
            # A notebook without ipywidgets gets a bar of characters, and needs no words on it.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=None)
