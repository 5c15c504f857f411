"""A progress bar, if tqdm is installed."""


def open_bar(total):
    """A bar for ``total`` bytes, or None. tqdm draws it in a notebook, and on a terminal."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=None)
